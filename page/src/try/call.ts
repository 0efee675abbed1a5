/** One request of a playground: what it is doing, what came, and a way to stop it. */
import { signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { isAbort } from "../server/call";

/** The last call of each model, which its code is shown for. */
export type Sent = { readonly path: string; readonly body: Readonly<Record<string, unknown>> };
export const lastSent = signal<ReadonlyMap<string, Sent>>(new Map());

export function note(uid: string, sent: Sent): void {
  lastSent.value = new Map(lastSent.value).set(uid, sent);
}

export type Run = {
  readonly isBusy: boolean;
  readonly error: unknown;
  readonly seconds: number | null;
  readonly begin: (work: (signal: AbortSignal) => Promise<void>) => void;
  readonly stop: () => void;
};

export function useRun(): Run {
  const [state, setState] = useState<{ isBusy: boolean; error: unknown; seconds: number | null }>(IDLE);
  const running = useRef<AbortController | null>(null);
  useEffect(() => () => running.current?.abort(), []);
  const begin = (work: (signal: AbortSignal) => Promise<void>): void => {
    running.current?.abort();
    const current = (running.current = new AbortController());
    const began = performance.now();
    const end = (error: unknown): void => {
      if (running.current !== current) return;
      const seconds = error === null ? (performance.now() - began) / 1000 : null;
      setState({ isBusy: false, error: isAbort(error) ? null : error, seconds });
    };
    setState({ isBusy: true, error: null, seconds: null });
    work(current.signal).then(
      () => end(null),
      (error: unknown) => end(error),
    );
  };
  return { ...state, begin, stop: () => running.current?.abort() };
}

const IDLE = { isBusy: false, error: null, seconds: null };
