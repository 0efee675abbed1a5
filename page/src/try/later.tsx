/** A request that goes on in the background, and is looked at under Requests. */
import type { JSX } from "preact";
import { go } from "../kit/route";
import { send } from "../server/call";
import { words } from "../words";

export function Later(): JSX.Element {
  return (
    <label class="check">
      <input type="checkbox" name="later" />
      {words().try.later}
    </label>
  );
}

export async function beginLater(path: string, body: unknown, signal: AbortSignal): Promise<void> {
  await send("POST", path, { body, signal });
  go("requests");
}
