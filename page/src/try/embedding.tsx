/** Texts as vectors: how alike each is to each. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { post } from "../server/call";
import type { LiveModel } from "../server/shapes";
import { words } from "../words";
import { Beside } from "./beside";
import { note, useRun } from "./call";
import { linesOf, RunRow } from "./run_row";
import { flat, type Place } from "./plane";
import { nearest, similarities, type Vector } from "./similar";

const PATH = "/v1/embeddings";
type Embedded = { readonly data: readonly { readonly embedding: Vector }[]; readonly usage: { readonly total_tokens: number } };
type Space = { readonly uid: string; readonly matrix: readonly (readonly number[])[]; readonly size: number; readonly places: readonly Place[] };
type Shown = { readonly texts: readonly string[]; readonly spaces: readonly Space[] };

function spaceOf(uid: string, { data }: Embedded): Space {
  const vectors = data.map((row) => row.embedding);
  return { uid, matrix: similarities(vectors), size: vectors[0]?.length ?? 0, places: flat(vectors) };
}

export function Embedding({ model }: { model: LiveModel }): JSX.Element {
  const say = words().try;
  const [text, setText] = useState(say.sentences);
  const [other, setOther] = useState("");
  const [shown, setShown] = useState<Shown | null>(null);
  const run = useRun();
  const submit = (event: SubmitEvent): void => {
    event.preventDefault();
    const texts = linesOf(text);
    const body = { model: model.uid, input: texts };
    note(model.uid, { path: PATH, body });
    run.begin(async (signal) => {
      const uids = [model.uid, ...(other ? [other] : [])];
      const answers = await Promise.all(uids.map((uid) => post<Embedded>(PATH, { ...body, model: uid }, signal)));
      setShown({ texts, spaces: answers.map((answer, place) => spaceOf(uids[place] ?? "", answer)) });
    });
  };
  const isOne = shown === null || shown.spaces.length < 2;
  return (
    <div class={isOne ? "split" : "stack"}>
      <form class="stack" onSubmit={submit}>
        <label class="field">
          <span>{say.texts}</span>
          <textarea rows={8} value={text} onInput={(event) => setText(event.currentTarget.value)} required />
          <small>{say.onePerLine}</small>
        </label>
        <Beside model={model} ability="embed" chosen={other} onChoose={setOther} />
        <RunRow run={run} label={say.embed} />
      </form>
      {shown && (isOne ? <Matrix texts={shown.texts} space={shown.spaces[0]} /> : <Both shown={shown} />)}
    </div>
  );
}

function Both({ shown }: { shown: Shown }): JSX.Element {
  return (
    <div class="columns">
      {shown.spaces.map((space) => (
        <section key={space.uid} class="stack" aria-label={space.uid}>
          <h2>{space.uid}</h2>
          <Matrix texts={shown.texts} space={space} title={space.uid} />
        </section>
      ))}
    </div>
  );
}

/** `title`: of which model, where there are several. */
type MatrixProperties = { texts: readonly string[]; space: Space | undefined; title?: string };

function Matrix({ texts, space, title = "" }: MatrixProperties): JSX.Element | null {
  const say = words().try;
  if (space === undefined) return null;
  const pair = nearest(space.matrix);
  return (
    <section class="stack">
      <p class="dim">{say.vectors(texts.length, space.size)}</p>
      <div class="scroll" tabIndex={0} role="region" aria-label={`${say.similarity} ${title}`.trim()}>
        <Cells texts={texts} matrix={space.matrix} />
      </div>
      <div class="columns">
        <Plane places={space.places} title={`${say.plane} ${title}`.trim()} />
        <div class="stack">
          <ol class="stack tight">
            {texts.map((text, place) => (
              <li key={place} class="name">
                <span class="dim">{place + 1}</span> {text}
              </li>
            ))}
          </ol>
          {pair && <p>{say.nearest(pair[0] + 1, pair[1] + 1, (space.matrix[pair[0]]?.[pair[1]] ?? 0).toFixed(3))}</p>}
        </div>
      </div>
    </section>
  );
}

function Cells({ texts, matrix }: { texts: readonly string[]; matrix: Space["matrix"] }): JSX.Element {
  return (
    <table class="matrix">
      <tbody>
        {matrix.map((cells, row) => (
          <tr key={row}>
            <th scope="row" title={texts[row]}>
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
  );
}

/** The side of the plane, and how far its points are from its edges. */
const SIDE = 200;
const EDGE = 16;

function Plane({ places, title }: { places: readonly Place[]; title: string }): JSX.Element {
  const say = words().try;
  return (
    <figure class="stack tight">
      <svg class="plane" viewBox={`0 0 ${SIDE} ${SIDE}`} role="img" aria-label={title}>
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
