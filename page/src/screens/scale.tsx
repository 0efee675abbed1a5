/** How many replicas a model has, and between which bounds their number follows the load. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { ErrorNote } from "../kit/parts";
import { replicasOf } from "../kit/states";
import { inPath, post } from "../server/call";
import type { LiveModel } from "../server/shapes";
import { words } from "../words";

/** As many as serve, and as there are to be. */
export function ReplicaCount({ model }: { model: LiveModel }): JSX.Element {
  const { scale } = model;
  if (scale === null) return <>{replicasOf(model)}</>;
  const title = `${scale.why || words().scale.nothingYet} ${words().scale.waits(scale.target_queue_s)}`;
  return <span title={title}>{words().scale.within(replicasOf(model), scale.min, scale.max)}</span>;
}

const scaling = (uid: string, changes: Readonly<Record<string, number>>): Promise<unknown> =>
  post(`/v1/models/${inPath(uid)}/scale`, changes);

export function Scale({ model }: { model: LiveModel }): JSX.Element {
  const say = words().scale;
  const [error, setError] = useState<unknown>(null);
  const least = model.scale?.min ?? 1;
  const scale = (replica: number): void => {
    setError(null);
    scaling(model.uid, { replica }).catch(setError);
  };
  return (
    <div class="stack tight">
      <div class="row" role="group" aria-label={say.replicas}>
        <button aria-label={say.fewer} disabled={model.replica <= Math.max(1, least)} onClick={() => scale(model.replica - 1)}>
          −
        </button>
        <span>{model.scale === null ? say.count(model.replica) : <ReplicaCount model={model} />}</span>
        <button
          aria-label={say.more}
          disabled={model.scale !== null && model.replica >= model.scale.max}
          onClick={() => scale(model.replica + 1)}
        >
          +
        </button>
      </div>
      <ErrorNote error={error} />
    </div>
  );
}

export function Bounds({ model }: { model: LiveModel }): JSX.Element {
  const say = words().scale;
  const { scale } = model;
  return (
    <details>
      <summary>{say.follow}</summary>
      <div class="stack tight">
        <p class="dim">{scale === null ? say.followNot : scale.why || say.nothingYet}</p>
        {scale !== null && <p class="dim">{say.waits(scale.target_queue_s)}</p>}
        {/* Bounds that were set elsewhere are shown here as well. */}
        <Form key={`${scale?.min} ${scale?.max} ${scale?.target_queue_s}`} model={model} />
      </div>
    </details>
  );
}

function Form({ model }: { model: LiveModel }): JSX.Element {
  const say = words().scale;
  const [error, setError] = useState<unknown>(null);
  const submit = (event: SubmitEvent & { currentTarget: HTMLFormElement }): void => {
    event.preventDefault();
    setError(null);
    const data = new FormData(event.currentTarget);
    const entries = [...data].filter(([, text]) => text !== "").map(([name, text]) => [name, Number(text)]);
    scaling(model.uid, Object.fromEntries(entries) as Record<string, number>).catch(setError);
  };
  return (
    <form class="stack tight" onSubmit={submit}>
      <div class="row end">
        <label class="field short">
          <span>{say.min}</span>
          <input name="min" type="number" min={0} max={1000} step={1} required defaultValue={model.scale?.min ?? 1} />
        </label>
        <label class="field short">
          <span>{say.max}</span>
          <input name="max" type="number" min={1} max={1000} step={1} required defaultValue={model.scale?.max ?? model.replica} />
        </label>
        <label class="field short">
          <span>{say.target}</span>
          <input name="target_queue_s" type="number" min={0.01} max={3600} step="any" defaultValue={model.scale?.target_queue_s ?? ""} />
        </label>
        <button>{say.set}</button>
      </div>
      <small>{say.help}</small>
      <ErrorNote error={error} />
    </form>
  );
}
