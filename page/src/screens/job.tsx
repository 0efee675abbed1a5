/** One job in the background: how far it is, what came of it, and an end to it. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { duration, percent } from "../kit/format";
import { hrefOf } from "../kit/route";
import { Bar, ErrorNote, State, type Kind } from "../kit/parts";
import { encoded, get, send } from "../server/call";
import type { JobRow, RequestRow } from "../server/shapes";
import { words } from "../words";
import { Preview } from "./preview";

export const JOBS = "/v1/images/jobs";
const KINDS: Readonly<Record<string, Kind>> = { queued: "warn", in_progress: "busy", completed: "good" };
export const isOver = (job: JobRow): boolean => ["completed", "failed", "cancelled"].includes(job.status ?? "");

/** `request`: what its worker says of it while it is under way. */
type JobProperties = { job: JobRow; request: RequestRow | undefined; onChange: () => void };

export function Job({ job, request, onChange }: JobProperties): JSX.Element {
  const say = words().requests;
  const [error, setError] = useState<unknown>(null);
  const [result, setResult] = useState<Result | null>(null);
  const end = (): void => void send("DELETE", `${JOBS}/${encoded(job.id)}`).then(onChange, setError);
  const show = (): void => void get<Result>(`${JOBS}/${encoded(job.id)}/result`).then(setResult, setError);
  return (
    <section class="panel stack tight" aria-label={job.id}>
      <div class="row spread">
        <div class="row">
          <State kind={KINDS[job.status ?? ""] ?? "bad"}>{job.status ?? ""}</State>
          <a href={hrefOf("models", job.model)}>{job.model}</a>
          <small>{say.since(duration(Date.now() / 1000 - job.created_at))}</small>
        </div>
        <div class="row">
          {job.status === "completed" && result === null && <button onClick={show}>{say.show}</button>}
          <button class="danger" onClick={end}>
            {isOver(job) ? say.forget : words().try.stop}
          </button>
        </div>
      </div>
      {!isOver(job) && <Progress job={job} />}
      {!isOver(job) && request !== undefined && <Preview request={request} />}
      {typeof job.error?.message === "string" && <small class="name">{job.error.message}</small>}
      <ErrorNote error={error} />
      {result && <Shown result={result} />}
    </section>
  );
}

function Progress({ job }: { job: JobRow }): JSX.Element {
  const say = words().requests;
  const part = job.progress ?? 0;
  const steps = job.steps ? say.step(job.step ?? 0, job.steps) : (job.stage ?? "");
  const left = job.eta_s == null ? "" : ` · ${say.left(duration(job.eta_s))}`;
  return (
    <>
      <Bar parts={[part]} label={percent(part)} />
      <small>{steps + left}</small>
    </>
  );
}

/** Of pictures, or of the pages of a document. */
type Result = { readonly data?: readonly { readonly b64_json?: string }[]; readonly output_format?: string; readonly text?: string };

function Shown({ result }: { result: Result }): JSX.Element {
  const format = ["png", "jpeg", "webp"].find((each) => each === result.output_format) ?? "png";
  const sources = (result.data ?? []).flatMap((each) => (each.b64_json ? [`data:image/${format};base64,${each.b64_json}`] : []));
  if (sources.length === 0) return <pre class="log wrapped">{typeof result === "string" ? result : (result.text ?? JSON.stringify(result, null, 1))}</pre>;
  return (
    <div class="pictures">
      {sources.map((source) => (
        <a key={source} href={source} download="picture">
          <img src={source} alt={words().try.picture} />
        </a>
      ))}
    </div>
  );
}
