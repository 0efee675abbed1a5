/** What models work on: requests that somebody waits for, and work that goes on without a page. */
import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { useAnswer } from "../kit/answer";
import { duration, percent } from "../kit/format";
import { hrefOf } from "../kit/route";
import { Bar, ErrorNote, State, Waiting } from "../kit/parts";
import { encoded, send } from "../server/call";
import { models } from "../server/live";
import { may } from "../server/me";
import type { JobRow, RequestRow, RequestRows } from "../server/shapes";
import { words } from "../words";
import { Charts } from "./charts";
import { isOver, Job, JOBS } from "./job";
import { Preview } from "./preview";
import { Queues } from "./queues";

/** Progress is asked for while something is under way, and otherwise more seldom. */
const BUSY_MS = 1000;
const IDLE_MS = 3000;

export function Requests(): JSX.Element {
  const say = words().requests;
  const [turn, setTurn] = useState(0);
  const jobs = useAnswer<{ data: readonly JobRow[] }>(JOBS, turn);
  const open = useAnswer<RequestRows>("/v1/requests", turn);
  const rows = jobs.value?.data ?? [];
  const requests = open.value?.requests ?? [];
  const ids = new Set(rows.map((job) => job.id));
  const others = requests.filter((request) => !ids.has(request.id));
  const again = (): void => setTurn((last) => last + 1);
  const pause = requests.length > 0 || rows.some((job) => !isOver(job)) ? BUSY_MS : IDLE_MS;
  useEffect(() => {
    const timer = setInterval(() => document.hidden || again(), pause);
    return () => clearInterval(timer);
  }, [pause]);
  return (
    <div class="stack">
      <h1>{say.title}</h1>
      <h2>{say.underWay}</h2>
      <ErrorNote error={open.error} />
      {open.value === null && open.error === null && <Waiting rows={2} />}
      {open.value !== null && others.length === 0 && <p class="dim">{say.idle}</p>}
      {others.map((request) => (
        <Open key={`${request.model} ${request.id}`} request={request} onChange={again} />
      ))}
      <h2>{say.background}</h2>
      <p class="dim">{say.help}</p>
      <ErrorNote error={jobs.error} />
      {jobs.value === null && jobs.error === null && <Waiting rows={2} />}
      {jobs.value !== null && rows.length === 0 && <p>{say.none}</p>}
      {rows.map((job) => (
        <Job key={job.id} job={job} request={requests.find((each) => each.id === job.id)} onChange={again} />
      ))}
      <h2>{words().queues.title}</h2>
      <p class="dim">{words().queues.help}</p>
      <Queues />
      <Charts uid={null} models={models.value} />
    </div>
  );
}

function Open({ request, onChange }: { request: RequestRow; onChange: () => void }): JSX.Element {
  const say = words().requests;
  const [error, setError] = useState<unknown>(null);
  const path = `/v1/requests/${encoded(request.id)}?model=${encoded(request.model)}`;
  const stop = (): void => void send("DELETE", path).then(onChange, setError);
  const left = request.eta_s === null ? "" : ` · ${say.left(duration(request.eta_s))}`;
  return (
    <section class="panel stack tight" aria-label={request.id}>
      <div class="row spread">
        <div class="row">
          <State kind={request.state === "running" ? "busy" : "warn"}>{request.state}</State>
          <a href={hrefOf("models", request.model)}>{request.model}</a>
          <small class="name">
            {say.since(duration(request.age_s))} · {request.key ?? request.id}
          </small>
        </div>
        {may("infer") && (
          <button class="danger" onClick={stop}>
            {words().try.stop}
          </button>
        )}
      </div>
      {request.progress > 0 && <Bar parts={[request.progress]} label={percent(request.progress)} />}
      <small>{(request.steps ? say.step(request.step, request.steps) : request.stage) + left}</small>
      <Preview request={request} />
      <ErrorNote error={error} />
    </section>
  );
}
