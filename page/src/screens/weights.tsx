/** The weights on the disks of the nodes: how large, who uses them, and their deletion. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { useAnswer, useCalm } from "../kit/answer";
import { bytes } from "../kit/format";
import { hrefOf } from "../kit/route";
import { Confirm, ErrorNote, State, Waiting, type Question } from "../kit/parts";
import { deletionOf, storedOf, totalOf, type Stored } from "../kit/weights";
import { send } from "../server/call";
import { models, returns } from "../server/live";
import type { CachedRow } from "../server/shapes";
import { words } from "../words";

/** Every node looks at its disk for an answer. */
const PAUSE_MS = 3000;

export function Weights(): JSX.Element {
  const say = words().weights;
  // Launches bring weights along, and say who uses them.
  const since = `${returns.value} ${models.value.map(({ uid, state }) => `${uid} ${state}`).join()}`;
  const { value, error, again } = useAnswer<{ list: readonly CachedRow[] }>("/v1/cache/models", useCalm(since, PAUSE_MS));
  const rows = value?.list ?? [];
  return (
    <div class="stack">
      <div class="row">
        <h1>{say.title}</h1>
        {rows.length > 0 && <span class="dim">{say.total(bytes(totalOf(rows)))}</span>}
      </div>
      <p class="dim">{say.help}</p>
      <ErrorNote error={error} />
      {value === null && error === null && <Waiting />}
      {value !== null && (rows.length === 0 ? <p>{say.none}</p> : <Table stored={storedOf(rows)} again={again} />)}
    </div>
  );
}

function Table({ stored, again }: { stored: readonly Stored[]; again: () => void }): JSX.Element {
  const say = words().weights;
  const [question, setQuestion] = useState<Question | null>(null);
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={say.title}>
      <table>
        <thead>
          <tr>
            <th scope="col">{say.model}</th>
            <th scope="col" class="wide">{say.type}</th>
            <th scope="col" class="number">{say.size}</th>
            <th scope="col" class="wide">{say.nodes}</th>
            <th scope="col">{say.usedBy}</th>
            <td />
          </tr>
        </thead>
        <tbody>
          {stored.map((each) => (
            <Row key={each.id} stored={each} onDelete={() => setQuestion(deleting(each, again))} />
          ))}
        </tbody>
      </table>
      {question && <Confirm question={question} onClose={() => setQuestion(null)} />}
    </div>
  );
}

function Row({ stored, onDelete }: { stored: Stored; onDelete: () => void }): JSX.Element {
  const say = words().weights;
  return (
    <tr>
      <th scope="row" class="name">
        {stored.name}
        <div class="dim">{[stored.hub, stored.version].filter(Boolean).join(" · ")}</div>
        {stored.isPartial && <State kind="warn">{say.partial}</State>}
      </th>
      <td class="wide">{stored.type || "–"}</td>
      <td class="number">{bytes(stored.size)}</td>
      <td class="wide name">{stored.nodes.join(", ")}</td>
      <td class="name">
        {stored.usedBy.length === 0
          ? "–"
          : stored.usedBy.map((uid) => (
              <div key={uid}>
                <a href={hrefOf("models", uid)}>{uid}</a>
              </div>
            ))}
      </td>
      <td class="number">
        <button class="quiet" onClick={onDelete} aria-label={say.deleteLabel(stored.name)}>
          {say.delete}
        </button>
      </td>
    </tr>
  );
}

/** What is in use the server refuses, and says by whom. */
function deleting(stored: Stored, done: () => void): Question {
  const say = words().weights;
  return {
    title: say.deleteTitle(stored.name),
    text: say.deleteText(bytes(stored.size), stored.nodes.join(", ")),
    act: say.delete,
    run: async () => {
      await send("DELETE", deletionOf(stored));
      done();
    },
  };
}
