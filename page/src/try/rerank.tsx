/** Documents in the order in which they answer a query. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { Bar } from "../kit/parts";
import { post } from "../server/call";
import type { LiveModel } from "../server/shapes";
import { words } from "../words";
import { Beside } from "./beside";
import { note, useRun } from "./call";
import { linesOf, RunRow } from "./run_row";

const PATH = "/v1/rerank";
type Result = { readonly index: number; readonly relevance_score: number };
type Ranked = { readonly results: readonly Result[] };
type Order = { readonly uid: string; readonly results: readonly Result[] };
type Shown = { readonly documents: readonly string[]; readonly orders: readonly Order[] };

export function Rerank({ model }: { model: LiveModel }): JSX.Element {
  const say = words().try;
  const [query, setQuery] = useState(say.query);
  const [text, setText] = useState(say.documents);
  const [other, setOther] = useState("");
  const [shown, setShown] = useState<Shown | null>(null);
  const run = useRun();
  const submit = (event: SubmitEvent): void => {
    event.preventDefault();
    const documents = linesOf(text);
    const body = { model: model.uid, query, documents };
    note(model.uid, { path: PATH, body });
    run.begin(async (signal) => {
      const uids = [model.uid, ...(other ? [other] : [])];
      const answers = await Promise.all(uids.map((uid) => post<Ranked>(PATH, { ...body, model: uid }, signal)));
      setShown({ documents, orders: answers.map(({ results }, place) => ({ uid: uids[place] ?? "", results })) });
    });
  };
  return (
    <div class="stack">
      <form class="stack" onSubmit={submit}>
        <label class="field">
          <span>{say.queryLabel}</span>
          <input value={query} onInput={(event) => setQuery(event.currentTarget.value)} required />
        </label>
        <label class="field">
          <span>{say.documentsLabel}</span>
          <textarea rows={5} value={text} onInput={(event) => setText(event.currentTarget.value)} required />
          <small>{say.onePerLine}</small>
        </label>
        <Beside model={model} ability="rerank" chosen={other} onChoose={setOther} />
        <RunRow run={run} label={say.rank} />
      </form>
      {shown && (
        <div class="columns">
          <section class="stack tight">
            <h2>{say.before}</h2>
            <ol class="ranked" aria-label={say.before}>
              {shown.documents.map((document, place) => (
                <li key={place}>
                  <span class="dim">{place + 1}</span>
                  <span class="name">{document}</span>
                </li>
              ))}
            </ol>
          </section>
          {shown.orders.map((order) => (
            <Ranking key={order.uid} documents={shown.documents} order={order} />
          ))}
        </div>
      )}
    </div>
  );
}

function Ranking({ documents, order }: { documents: readonly string[]; order: Order }): JSX.Element {
  const say = words().try;
  const most = Math.max(...order.results.map((result) => Math.abs(result.relevance_score)), 1e-9);
  return (
    <section class="stack tight" aria-label={order.uid}>
      <h2 class="name">{say.after(order.uid)}</h2>
      <ol class="ranked" aria-label={say.ranking}>
      {order.results.map(({ index, relevance_score: score }, place) => (
        <li key={index}>
          <span>{score.toFixed(3)}</span>
          <span class="name">
            {documents[index]} {index !== place && <small>{say.was(index + 1)}</small>}
          </span>
          <Bar parts={[score / most]} label={score.toFixed(3)} />
        </li>
      ))}
      </ol>
    </section>
  );
}
