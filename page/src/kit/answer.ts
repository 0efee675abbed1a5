/** The answer to one request of a screen, asked again when its path changes, and given up with the screen. */
import { useEffect, useRef, useState } from "preact/hooks";
import { get, isAbort } from "../server/call";

export type Answer<T> = { readonly value: T | null; readonly error: unknown; readonly again: () => void };

/** `since` asks again when it changes, and keeps what is on the screen meanwhile. */
export function useAnswer<T>(path: string | null, since: unknown = 0): Answer<T> {
  const [state, setState] = useState<{ path: string | null; value: T | null; error: unknown }>(NOTHING);
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    if (path === null) return;
    const leaving = new AbortController();
    get<T>(path, leaving.signal).then(
      (value) => setState({ path, value, error: null }),
      (error: unknown) => isAbort(error) || setState((last) => ({ path, value: last.path === path ? last.value : null, error })),
    );
    return () => leaving.abort();
  }, [path, since, turn]);
  const isCurrent = state.path === path;
  return { value: isCurrent ? state.value : null, error: isCurrent ? state.error : null, again: () => setTurn(turn + 1) };
}

const NOTHING = { path: null, value: null, error: null };

/** The value as it was at most a pause ago: what changes often is not asked about each time. */
export function useCalm<T>(value: T, pauseMs: number): T {
  const [calm, setCalm] = useState(value);
  const latest = useRef(value);
  const timer = useRef(0);
  latest.current = value;
  useEffect(() => {
    if (value === calm || timer.current !== 0) return;
    timer.current = window.setTimeout(() => {
      timer.current = 0;
      setCalm(latest.current);
    }, pauseMs);
  }, [value, calm]);
  useEffect(() => () => clearTimeout(timer.current), []);
  return calm;
}
