/** The workers of a model. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { bytes, duration, percent } from "../kit/format";
import { Confirm, State, type Question } from "../kit/parts";
import { kindOf } from "../kit/states";
import { inPath, send } from "../server/call";
import type { LiveModel, LiveWorker } from "../server/shapes";
import { words } from "../words";

export function Replicas({ model }: { model: LiveModel }): JSX.Element {
  const say = words().replicas;
  const [question, setQuestion] = useState<Question | null>(null);
  if (model.workers.length === 0) return <p class="dim">{model.reason || say.none}</p>;
  return (
    <div class="stack">
      <Table model={model} />
      <p>
        <button onClick={() => setQuestion(restarting(model.uid))}>{say.restart}</button>
      </p>
      {question && <Confirm question={question} onClose={() => setQuestion(null)} />}
    </div>
  );
}

/** The page follows its workers in any case, and does not wait for them. */
function restarting(uid: string): Question {
  const say = words().replicas;
  return {
    title: say.restartTitle(uid),
    text: say.restartText,
    act: say.restart,
    run: async () => {
      await send("POST", `/v1/models/${inPath(uid)}/restart?wait_ready=false`);
    },
  };
}

function Table({ model }: { model: LiveModel }): JSX.Element {
  const say = words().replicas;
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={say.title}>
      <table>
        <thead>
          <tr>
            <th scope="col">{say.replica}</th>
            <th scope="col">{say.state}</th>
            <th scope="col">{say.node}</th>
            <th scope="col" class="number">{say.memory}</th>
            <th scope="col" class="number wide">{say.process}</th>
            <th scope="col" class="number wide">{say.restarts}</th>
            <th scope="col" class="number wide">{say.age}</th>
          </tr>
        </thead>
        <tbody>
          {model.workers.map((worker) => (
            <Row key={worker.id} worker={worker} isOneOfTwo={model.canary !== null} />
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Row({ worker, isOneOfTwo }: { worker: LiveWorker; isOneOfTwo: boolean }): JSX.Element {
  const isLoading = worker.state === "LOADING";
  return (
    <tr>
      <th scope="row">
        {worker.index}
        {isOneOfTwo && <span class="dim"> {words().canary.generation(worker.generation)}</span>}
      </th>
      <td>
        <State kind={kindOf(worker.state)}>{worker.state}</State>
        {isLoading && <small class="name"> {percent(worker.progress)} {worker.stage}</small>}
        {worker.reason && <div class="dim name">{worker.reason}</div>}
      </td>
      <td class="name">
        {worker.node}
        {worker.cards.length > 0 && ` · ${words().replicas.cards(worker.cards.join(", "))}`}
      </td>
      <td class="number">{bytes(worker.claim_bytes + worker.card_bytes)}</td>
      <td class="number wide">{worker.pid || "–"}</td>
      <td class="number wide">{worker.restarts}</td>
      <td class="number wide">{worker.created ? duration(Date.now() / 1000 - worker.created) : "–"}</td>
    </tr>
  );
}
