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
const MOST = 8;

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
      <div class="stack">
        {shown?.texts.map((each, place) => (
          <section key={place} class="stack tight">
            <h2 class="name">{each}</h2>
            {(shown.labels[place] ?? []).slice(0, MOST).map(({ label, score }) => (
              <div key={label}>
                <div class="row spread">
                  <span>{label}</span>
                  <small>{percent(score)}</small>
                </div>
                <Bar parts={[score]} label={percent(score)} />
              </div>
            ))}
          </section>
        ))}
      </div>
    </div>
  );
}
