/** What workers do, in the order in which it is shown. */
import type { LivePace } from "../server/shapes";

export type Paces = ReadonlyMap<string, LivePace>;

/** Those of a model together, and the busiest models first: with hundreds of workers, those that do nothing are below. */
export function rowsOf(paces: Paces): (readonly [string, LivePace])[] {
  const waiting = new Map<string, number>();
  for (const pace of paces.values()) waiting.set(pace.model, (waiting.get(pace.model) ?? 0) + pace.waiting);
  return [...paces].sort(
    ([, a], [, b]) =>
      (waiting.get(b.model) ?? 0) - (waiting.get(a.model) ?? 0) || a.model.localeCompare(b.model) || a.index - b.index || a.generation - b.generation,
  );
}
