/** What a picture that is being drawn looks like so far. */
import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { encoded, send } from "../server/call";
import type { RequestRow } from "../server/shapes";
import { words } from "../words";

/** The one before stays until the next is there. */
export function Preview({ request: { id, previews } }: { request: RequestRow }): JSX.Element | null {
  const [address, setAddress] = useState<string | null>(null);
  useEffect(() => {
    if (previews === 0) return;
    const leaving = new AbortController();
    send("GET", `/v1/requests/${encoded(id)}/preview`, { signal: leaving.signal }).then(
      async (answer) => setAddress(URL.createObjectURL(await answer.blob())),
      () => undefined,
    );
    return () => leaving.abort();
  }, [id, previews]);
  useEffect(() => () => void (address && URL.revokeObjectURL(address)), [address]);
  if (address === null) return null;
  return (
    <div class="pictures">
      <img src={address} alt={words().try.preview(previews)} data-preview={previews} />
    </div>
  );
}
