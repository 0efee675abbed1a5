/** Texts as vectors: how alike each is to each. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { post } from "../server/call";
import type { LiveModel } from "../server/shapes";
import { words } from "../words";
import { note, useRun } from "./call";
import { linesOf, RunRow } from "./run_row";
import { flat, type Place } from "./plane";
import { nearest, similarities, type Vector } from "./similar";

const PATH = "/v1/embeddings";
type Embedded = { readonly data: readonly { readonly embedding: Vector }[]; readonly usage: { readonly total_tokens: number } };
type Shown = { readonly texts: readonly string[]; readonly matrix: readonly (readonly number[])[]; readonly size: number; readonly places: readonly Place[] };

export function Embedding({ model }: { model: LiveModel }): JSX.Element {
  const say = words().try;
  const [text, setText] = useState(say.sentences);
  const [shown, setShown] = useState<Shown | null>(null);
  const run = useRun();
  const submit = (event: SubmitEvent): void => {
    event.preventDefault();
    const texts = linesOf(text);
    const body = { model: model.uid, input: texts };
    note(model.uid, { path: PATH, body });
    run.begin(async (signal) => {
      const { data } = await post<Embedded>(PATH, body, signal);
      const vectors = data.map((row) => row.embedding);
      setShown({ texts, matrix: similarities(vectors), size: vectors[0]?.length ?? 0, places: flat(vectors) });
    });
  };
  return (
    <div class="split">
      <form class="stack" onSubmit={submit}>
        <label class="field">
          <span>{say.texts}</span>
          <textarea rows={8} value={text} onInput={(event) => setText(event.currentTarget.value)} required />
          <small>{say.onePerLine}</small>
        </label>
        <RunRow run={run} label={say.embed} />
      </form>
      {shown && <Matrix shown={shown} />}
    </div>
  );
}

function Matrix({ shown }: { shown: Shown }): JSX.Element {
  const say = words().try;
  const pair = nearest(shown.matrix);
  return (
    <section class="stack">
      <p class="dim">{say.vectors(shown.texts.length, shown.size)}</p>
      <div class="scroll" tabIndex={0} role="region" aria-label={say.similarity}>
        <table class="matrix">
          <tbody>
            {shown.matrix.map((cells, row) => (
              <tr key={row}>
                <th scope="row" title={shown.texts[row]}>
                  {row + 1}
                </th>
                {cells.map((value, column) => (
                  <td key={column} style={{ background: shade(value) }}>
                    {value.toFixed(2)}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <div class="columns">
        <Plane places={shown.places} />
        <div class="stack">
          <ol class="stack tight">
            {shown.texts.map((text, place) => (
              <li key={place} class="name">
                <span class="dim">{place + 1}</span> {text}
              </li>
            ))}
          </ol>
          {pair && <p>{say.nearest(pair[0] + 1, pair[1] + 1, (shown.matrix[pair[0]]?.[pair[1]] ?? 0).toFixed(3))}</p>}
        </div>
      </div>
    </section>
  );
}

/** The side of the plane, and how far its points are from its edges. */
const SIDE = 200;
const EDGE = 16;

function Plane({ places }: { places: readonly Place[] }): JSX.Element {
  const say = words().try;
  return (
    <figure class="stack tight">
      <svg class="plane" viewBox={`0 0 ${SIDE} ${SIDE}`} role="img" aria-label={say.plane}>
        {places.map(([x, y], place) => (
          <g key={place} transform={`translate(${EDGE + x * (SIDE - 2 * EDGE)} ${EDGE + y * (SIDE - 2 * EDGE)})`}>
            <circle r="3" />
            {/* On either side in turn, so that those of neighbours can be read. */}
            <text x={place % 2 ? -6 : 6} y="4" text-anchor={place % 2 ? "end" : "start"}>{place + 1}</text>
          </g>
        ))}
      </svg>
      <figcaption>
        <small>{say.planeHelp}</small>
      </figcaption>
    </figure>
  );
}

/** The nearer, the more of the accent, yet never so much that the figure cannot be read. */
const shade = (value: number): string =>
  `color-mix(in srgb, var(--accent) ${Math.round(45 * Math.max(0, value))}%, var(--raised))`;
