/** Events of the whole cluster, page by page. Pure. */
import type { PastEvent } from "../server/shapes";

export const LEVELS = ["INFO", "WARNING", "ERROR"] as const;
export type Level = (typeof LEVELS)[number];
export const PAGE = 100;

export type Wanted = { readonly level: Level; readonly uid: string };

/** Of that level and worse; `before` is the oldest event that is there already. */
export function pathOf({ level, uid }: Wanted, before: number | null = null): string {
  const fields = { limit: String(PAGE), level, ...(uid ? { uid } : {}), ...(before === null ? {} : { before: String(before) }) };
  return `/v1/events?${new URLSearchParams(fields).toString()}`;
}

/** The newest page before older ones. Where more has happened meanwhile than it holds, what is between is missing, and older ones
 * are asked for again. */
export function joined(newest: readonly PastEvent[], older: readonly PastEvent[]): readonly PastEvent[] {
  const last = newest.at(-1);
  if (last === undefined || older.length === 0) return newest;
  const isJoined = newest.length < PAGE || older.some((event) => event.id >= last.id);
  return isJoined ? [...newest, ...older.filter((event) => event.id < last.id)] : newest;
}

/** The newest first, and before them those of what has happened since, which come with the newest last, that are wanted. */
export function withNews(events: readonly PastEvent[], news: readonly PastEvent[], { level, uid }: Wanted): readonly PastEvent[] {
  const last = events[0]?.id ?? -1;
  const isWanted = (event: PastEvent): boolean =>
    event.id > last && (uid === "" || event.model_uid === uid) && LEVELS.findIndex((each) => each === event.event_type) >= LEVELS.indexOf(level);
  return [...news.filter(isWanted).toReversed(), ...events];
}
