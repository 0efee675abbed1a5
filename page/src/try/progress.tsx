/** How far a request is that takes its time, as its worker says. */
import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { duration, percent } from "../kit/format";
import { Bar } from "../kit/parts";
import { get } from "../server/call";
import type { RequestProgressBody } from "../server/shapes";
import { words } from "../words";

const EVERY_MS = 700;

/** An id that nobody else has at the time. */
export const newId = (): string => `page-${Array.from(crypto.getRandomValues(new Uint32Array(3)), (part) => part.toString(36)).join("")}`;

export function RequestProgress({ id }: { id: string }): JSX.Element | null {
  const say = words().requests;
  const [progress, setProgress] = useState<RequestProgressBody | null>(null);
  useEffect(() => {
    // Before its worker knows it there is nothing to be told.
    const look = (): void => void get<RequestProgressBody>(`/v1/requests/${id}/progress`).then(setProgress, () => undefined);
    const timer = setInterval(look, EVERY_MS);
    return () => clearInterval(timer);
  }, [id]);
  if (progress === null) return null;
  const left = progress.eta === null ? "" : ` · ${say.left(duration(progress.eta))}`;
  return (
    <div class="stack tight">
      <Bar parts={[progress.progress]} label={percent(progress.progress)} />
      <small>{(progress.steps ? say.step(progress.step, progress.steps) : progress.stage) + left}</small>
    </div>
  );
}
