/** How a picture was made, and the proof of it: made again, it is the same to the last byte. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { ErrorNote, State } from "../kit/parts";
import { stream } from "../server/sse";
import { words } from "../words";

const PATH = "/v1/images/generations";
export type Receipt = Readonly<Record<string, unknown>>;
/** The request as it was sent, what the server says of it, and the picture. */
export type Made = { readonly body: Readonly<Record<string, unknown>>; readonly receipt: Receipt; readonly data: string };
type Event = { readonly type?: string; readonly b64_json?: string; readonly error?: { readonly message?: string } };

/** The same request, and the seed that the server chose where it had none. */
async function drawnAgain({ body, receipt }: Made): Promise<string> {
  for await (const event of stream<Event>(PATH, { body: { ...body, seed: receipt.seed } })) {
    if (event.error) throw new Error(event.error.message ?? "");
    if (event.type?.endsWith("completed")) return event.b64_json ?? "";
  }
  return "";
}

export function Proof({ made }: { made: Made }): JSX.Element {
  const say = words().try;
  const [error, setError] = useState<unknown>(null);
  const [isBusy, setIsBusy] = useState(false);
  const [isEqual, setIsEqual] = useState<boolean | null>(null);
  const again = async (): Promise<void> => {
    setIsBusy(true);
    setError(null);
    try {
      setIsEqual((await drawnAgain(made)) === made.data);
    } catch (caught) {
      setError(caught);
    }
    setIsBusy(false);
  };
  return (
    <section class="stack tight" aria-label={say.receipt}>
      <div class="row" role="status">
        <button type="button" disabled={isBusy} onClick={() => void again()}>
          {say.again}
        </button>
        {isEqual !== null && <State kind={isEqual ? "good" : "bad"}>{isEqual ? say.equal : say.unequal}</State>}
      </div>
      <ErrorNote error={error} />
      <details>
        <summary>{say.receipt}</summary>
        <dl class="facts">
          {Object.entries(made.receipt).map(([name, value]) => (
            <Fact key={name} name={name} value={value} />
          ))}
        </dl>
      </details>
    </section>
  );
}

function Fact({ name, value }: { name: string; value: unknown }): JSX.Element {
  return (
    <>
      <dt>{name}</dt>
      <dd class="name">{typeof value === "string" ? value : JSON.stringify(value)}</dd>
    </>
  );
}
