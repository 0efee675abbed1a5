/** What the states of models and workers look like. Pure. */
import type { LiveModel } from "../server/shapes";
import type { Kind } from "./parts";

const KINDS: Readonly<Record<string, Kind>> = {
  READY: "good",
  LOADING: "busy",
  STARTING: "busy",
  WAITING: "warn",
  DEGRADED: "warn",
  SUSPECT: "warn",
  DRAINING: "warn",
  draining: "warn",
  cordoned: "warn",
  ready: "good",
  DOZING: "plain",
  ASLEEP: "plain",
};

export const kindOf = (state: string): Kind => KINDS[state] ?? "bad";

/** Its next request wakes it. */
export const rests = (state: string): boolean => state === "ASLEEP" || state === "DOZING";

/** How many of its replicas are ready, and of how many, if that is not the same: "2" or "1/2". */
export function replicasOf({ ready, replica, scale, state }: Pick<LiveModel, "ready" | "replica" | "scale" | "state">): string {
  if (scale === null) return `${ready}/${replica}`;
  return ready === replica || rests(state) ? `${ready}` : `${ready}/${replica}`;
}

/** What its workers have claimed, of main memory and of cards. */
export function claimed(model: LiveModel): number {
  return model.workers.reduce((sum, worker) => sum + worker.claim_bytes + worker.card_bytes, 0);
}

export type Loading = { readonly part: number; readonly doneBytes: number; readonly totalBytes: number; readonly stage: string };

/** How far a model is that is not READY; null where nothing is loading. */
export function loadingOf(model: LiveModel): Loading | null {
  const loads = model.workers.filter((worker) => worker.state === "LOADING" || worker.state === "STARTING");
  if (loads.length === 0) return null;
  const sum = (of: (worker: LiveModel["workers"][number]) => number): number => loads.reduce((all, each) => all + of(each), 0);
  return {
    part: sum((worker) => worker.progress) / loads.length,
    doneBytes: sum((worker) => worker.done_bytes),
    totalBytes: sum((worker) => worker.total_bytes),
    stage: loads[0]?.stage ?? "",
  };
}
