/** A terminated model can be had back for a while: it is wanted again as it was. */
import { signal } from "@preact/signals";
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { ErrorNote } from "../kit/parts";
import { get, post } from "../server/call";
import { words } from "../words";

type Declaration = Readonly<Record<string, unknown>>;
type Ended = { readonly uid: string; readonly declaration: Declaration };

const OFFERED_MS = 10_000;
const ended = signal<Ended | null>(null);
let timer = 0;

/** What was asked for; null for a key that is not told everything. */
export async function declarationOf(uid: string): Promise<Declaration | null> {
  try {
    const { models } = await get<{ models: readonly Declaration[] }>("/v1/models/export");
    return models.find((each) => (each.model_uid ?? each.model_name) === uid) ?? null;
  } catch {
    return null;
  }
}

export function offer(uid: string, declaration: Declaration): void {
  clearTimeout(timer);
  ended.value = { uid, declaration };
  timer = window.setTimeout(() => (ended.value = null), OFFERED_MS);
}

export function Undo(): JSX.Element | null {
  return ended.value && <Offer key={ended.value.uid} ended={ended.value} />;
}

function Offer({ ended: { uid, declaration } }: { ended: Ended }): JSX.Element {
  const say = words().model;
  const [error, setError] = useState<unknown>(null);
  const undo = (): void => {
    clearTimeout(timer);
    post("/v1/models?wait_ready=false", { ...declaration, model_uid: uid }).then(() => (ended.value = null), setError);
  };
  return (
    <div class="banner row" role="status">
      <span class="name">{say.terminated(uid)}</span>
      <button onClick={undo}>{say.undo}</button>
      <ErrorNote error={error} />
    </div>
  );
}
