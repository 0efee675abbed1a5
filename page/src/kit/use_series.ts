/** The numbers of a model, or of all together, as they come: asked for once, and then told by the stream. */
import { useEffect, useState } from "preact/hooks";
import { get, isAbort } from "../server/call";
import { returns, want } from "../server/live";
import type { ModelSeries } from "../server/shapes";
import { endOf, extended, type Span } from "./series";

const CHARTED = ["requests", "errors", "p50", "p99", "waiting", "batch", "tokens", "memory"];

export type Told = { readonly told: ModelSeries | null; readonly error: unknown };

export function useSeries(uid: string | null, span: Span): Told {
  const [state, setState] = useState<Told>(NOTHING);
  /** How often something was missed, while nobody looked. */
  const [gaps, setGaps] = useState(0);
  useEffect(() => {
    const leaving = new AbortController();
    const most = span.seconds / span.step;
    let last: ModelSeries | null = null;
    const take = (news: ModelSeries): void => {
      if (news.step_s !== span.step || news.model !== uid) return;
      if (last !== null && news.begin > endOf(last)) setGaps((count) => count + 1);
      last = extended(last, news, most);
      setState({ told: last, error: null });
    };
    const topic = uid === null ? "figures" : `figures:${uid}`;
    const stop = want(topic, "figures", (data) => last !== null && take(JSON.parse(data) as ModelSeries));
    const since = Math.floor(Date.now() / 1000) - span.seconds;
    const fields = { series: CHARTED.join(), since: String(since), step_s: String(span.step), ...(uid === null ? {} : { model: uid }) };
    get<ModelSeries>(`/v1/history?${new URLSearchParams(fields)}`, leaving.signal).then(take, (error: unknown) => {
      if (!isAbort(error)) setState({ told: null, error });
    });
    return () => {
      stop();
      leaving.abort();
    };
  }, [uid, span, gaps, returns.value]);
  // What is there is of another model until the answer comes.
  return state.told === null || (state.told.model === uid && state.told.step_s === span.step) ? state : NOTHING;
}

const NOTHING: Told = { told: null, error: null };
