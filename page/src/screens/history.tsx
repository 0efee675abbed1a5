/** What happened to a model, and what its workers wrote. */
import type { JSX } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { useAnswer } from "../kit/answer";
import { day } from "../kit/format";
import { LINE_PX, sightOf } from "../kit/lines";
import { ErrorNote, State, Waiting, type Kind } from "../kit/parts";
import { inPath } from "../server/call";
import type { EventRow, LiveModel } from "../server/shapes";
import { words } from "../words";

export const KINDS: Readonly<Record<string, Kind>> = { INFO: "plain", WARNING: "warn", ERROR: "bad" };

export function Events({ model }: { model: LiveModel }): JSX.Element {
  const say = words().events;
  const { value, error } = useAnswer<readonly EventRow[]>(`/v1/models/${inPath(model.uid)}/events`, model.version);
  if (value === null) return error === null ? <Waiting /> : <ErrorNote error={error} />;
  if (value.length === 0) return <p class="dim">{say.none}</p>;
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={say.title}>
      <table>
        <tbody>
          {value.toReversed().map((event, place) => (
            <tr key={place}>
              <td class="dim mono">{day(1000 * event.event_ts)}</td>
              <td>
                <State kind={KINDS[event.event_type] ?? "plain"}>{event.event_type}</State>
              </td>
              <td class="name">{event.event_content}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

const FOLLOW_MS = 2000;
/** As many as the server tells at once. */
const LINES = 10_000;
/** Colours and other orders to a terminal. */
const ORDERS = /\u001b\[[0-9;?]*[ -/]*[@-~]/g;
const IS_BAD = /\b(ERROR|CRITICAL|Traceback|[A-Z]\w*Error)\b/;

export function Logs({ model }: { model: LiveModel }): JSX.Element {
  const say = words().logs;
  const [turn, setTurn] = useState(0);
  const [follows, setFollows] = useState(true);
  const [wanted, setWanted] = useState("");
  const { value, error } = useAnswer<{ lines: readonly string[] }>(`/v1/models/${inPath(model.uid)}/logs?lines=${LINES}&max_age=1`, turn);
  useEffect(() => {
    if (!follows) return;
    const timer = setInterval(() => document.hidden || setTurn((last) => last + 1), FOLLOW_MS);
    return () => clearInterval(timer);
  }, [follows]);
  const lines = useMemo(() => (value?.lines ?? []).map((line) => line.replace(ORDERS, "")), [value]);
  const shown = useMemo(() => lines.filter((line) => line.toLowerCase().includes(wanted.toLowerCase())), [lines, wanted]);
  return (
    <div class="stack tight">
      <div class="row">
        <label class="check">
          <input type="checkbox" checked={follows} onChange={(event) => setFollows(event.currentTarget.checked)} />
          {say.follow}
        </label>
        <input
          class="narrow"
          type="search"
          aria-label={say.search}
          placeholder={say.search}
          value={wanted}
          onInput={(event) => setWanted(event.currentTarget.value)}
        />
        <small>{say.count(shown.length, lines.length)}</small>
      </div>
      <ErrorNote error={error} />
      {value === null && error === null ? <Waiting /> : <Lines lines={shown} follows={follows} />}
    </div>
  );
}

function Lines({ lines, follows }: { lines: readonly string[]; follows: boolean }): JSX.Element {
  const box = useRef<HTMLPreElement>(null);
  const [top, setTop] = useState(0);
  const last = lines.at(-1);
  useEffect(() => {
    if (follows && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [last, lines.length, follows]);
  const sight = sightOf(top, box.current?.clientHeight ?? 0, lines.length);
  return (
    <pre
      class="log"
      ref={box}
      tabIndex={0}
      aria-label={words().model.tabs.logs}
      onScroll={(event) => setTop(event.currentTarget.scrollTop)}
    >
      <div style={{ height: `${LINE_PX * lines.length}px`, paddingTop: `${LINE_PX * sight.first}px` }}>
        {lines.slice(sight.first, sight.last).map((line, place) => (
          <div key={sight.first + place} class={IS_BAD.test(line) ? "bad" : undefined}>
            {line}
          </div>
        ))}
      </div>
    </pre>
  );
}
