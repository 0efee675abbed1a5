/** Which labels fit a text. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { percent } from "../kit/format";
import { Bar } from "../kit/parts";
import { post } from "../server/call";
import type { LiveModel } from "../server/shapes";
import { words } from "../words";
import { note, useRun } from "./call";
import { linesOf, RunRow } from "./run_row";

const PATH = "/classify";
type Label = { readonly label: string; readonly score: number };
type Classified = { readonly data: readonly (readonly Label[])[] };
type Shown = { readonly texts: readonly string[]; readonly labels: readonly (readonly Label[])[] };
const MOST = 5;

export function Classify({ model }: { model: LiveModel }): JSX.Element {
  const say = words().try;
  const [text, setText] = useState(say.opinions);
  const [shown, setShown] = useState<Shown | null>(null);
  const run = useRun();
  const submit = (event: SubmitEvent): void => {
    event.preventDefault();
    const texts = linesOf(text);
    const body = { model: model.uid, input: texts };
    note(model.uid, { path: PATH, body });
    run.begin(async (signal) => setShown({ texts, labels: (await post<Classified>(PATH, body, signal)).data }));
  };
  return (
    <div class="split">
      <form class="stack" onSubmit={submit}>
        <label class="field">
          <span>{say.texts}</span>
          <textarea rows={6} value={text} onInput={(event) => setText(event.currentTarget.value)} required />
          <small>{say.onePerLine}</small>
        </label>
        <RunRow run={run} label={say.classify} />
      </form>
      <div class="stack" aria-live="polite">
        {shown?.texts.map((each, place) => <Labels key={place} text={each} labels={byScore(shown.labels[place] ?? [])} />)}
      </div>
    </div>
  );
}

const byScore = (labels: readonly Label[]): Label[] => labels.toSorted((a, b) => b.score - a.score);

/** The likeliest first; the many that are not likely at all are a click away. */
function Labels({ text, labels }: { text: string; labels: readonly Label[] }): JSX.Element {
  const rest = labels.slice(MOST);
  return (
    <section class="stack tight" aria-label={text}>
      <h2>{text}</h2>
      <Scores labels={labels.slice(0, MOST)} />
      {rest.length > 0 && (
        <details>
          <summary>{words().try.otherLabels(rest.length)}</summary>
          <Scores labels={rest} />
        </details>
      )}
    </section>
  );
}

function Scores({ labels }: { labels: readonly Label[] }): JSX.Element {
  return (
    <ol class="stack tight">
      {labels.map(({ label, score }) => (
        <li key={label}>
          <div class="row spread tight">
            <span>{label}</span>
            <small>{(100 * score).toFixed(1)} %</small>
          </div>
          <Bar parts={[score]} label={percent(score)} />
        </li>
      ))}
    </ol>
  );
}
