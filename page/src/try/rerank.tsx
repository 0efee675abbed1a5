/** Documents in the order in which they answer a query. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { Bar } from "../kit/parts";
import { post } from "../server/call";
import type { LiveModel } from "../server/shapes";
import { words } from "../words";
import { note, useRun } from "./call";
import { linesOf, RunRow } from "./run_row";

const PATH = "/v1/rerank";
type Result = { readonly index: number; readonly relevance_score: number };
type Ranked = { readonly results: readonly Result[] };
type Shown = { readonly documents: readonly string[]; readonly results: readonly Result[] };

export function Rerank({ model }: { model: LiveModel }): JSX.Element {
  const say = words().try;
  const [query, setQuery] = useState(say.query);
  const [text, setText] = useState(say.documents);
  const [shown, setShown] = useState<Shown | null>(null);
  const run = useRun();
  const submit = (event: SubmitEvent): void => {
    event.preventDefault();
    const documents = linesOf(text);
    const body = { model: model.uid, query, documents };
    note(model.uid, { path: PATH, body });
    run.begin(async (signal) => {
      const { results } = await post<Ranked>(PATH, body, signal);
      setShown({ documents, results });
    });
  };
  return (
    <div class="split">
      <form class="stack" onSubmit={submit}>
        <label class="field">
          <span>{say.queryLabel}</span>
          <input value={query} onInput={(event) => setQuery(event.currentTarget.value)} required />
        </label>
        <label class="field">
          <span>{say.documentsLabel}</span>
          <textarea rows={8} value={text} onInput={(event) => setText(event.currentTarget.value)} required />
          <small>{say.onePerLine}</small>
        </label>
        <RunRow run={run} label={say.rank} />
      </form>
      {shown && <Ranking shown={shown} />}
    </div>
  );
}

function Ranking({ shown }: { shown: Shown }): JSX.Element {
  const say = words().try;
  const most = Math.max(...shown.results.map((result) => Math.abs(result.relevance_score)), 1e-9);
  return (
    <ol class="ranked" aria-label={say.ranking}>
      {shown.results.map(({ index, relevance_score: score }, place) => (
        <li key={index}>
          <span>{score.toFixed(3)}</span>
          <span class="name">
            {shown.documents[index]} {index !== place && <small>{say.was(index + 1)}</small>}
          </span>
          <Bar parts={[score / most]} label={score.toFixed(3)} />
        </li>
      ))}
    </ol>
  );
}
