/** What happened to a model, and what its workers wrote. */
import type { JSX } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { useAnswer } from "../kit/answer";
import { day } from "../kit/format";
import { LINE_PX, sightOf } from "../kit/lines";
import { found, NO_LINES, replicasIn, withNews, type LogLines } from "../kit/log_lines";
import { ErrorNote, State, Waiting, type Kind } from "../kit/parts";
import { inPath } from "../server/call";
import { keepCursor, want } from "../server/live";
import type { EventRow, LiveEvents, LiveLines, LiveModel } from "../server/shapes";
import { words } from "../words";

export const KINDS: Readonly<Record<string, Kind>> = { INFO: "plain", WARNING: "warn", ERROR: "bad" };

export function Events({ model }: { model: LiveModel }): JSX.Element {
  const say = words().events;
  const [turn, setTurn] = useState(0);
  const { value, error } = useAnswer<readonly EventRow[]>(`/v1/models/${inPath(model.uid)}/events`, turn);
  useEffect(
    () =>
      want("events", "events", (data) => {
        const { events } = JSON.parse(data) as LiveEvents;
        if (events.some((event) => event.model_uid === model.uid)) setTurn((last) => last + 1);
      }),
    [model.uid],
  );
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

/** The lines as they come; while nobody follows, as they were then. */
function useLog(uid: string, follows: boolean): LogLines | null {
  const [shown, setShown] = useState<LogLines | null>(null);
  const latest = useRef<LogLines | null>(null);
  const isFollowing = useRef(follows);
  isFollowing.current = follows;
  useEffect(() => {
    const stop = want(`log:${uid}`, "log", (data) => {
      const news = JSON.parse(data) as LiveLines;
      if (news.model !== uid) return;
      keepCursor(news.cursor);
      latest.current = withNews(latest.current, news);
      if (isFollowing.current) setShown(latest.current);
    });
    return () => {
      keepCursor("");
      stop();
    };
  }, [uid]);
  useEffect(() => {
    if (follows) setShown(latest.current);
  }, [follows]);
  return shown;
}

const IS_BAD = /\b(ERROR|CRITICAL|Traceback|[A-Z]\w*Error)\b/;

export function Logs({ model }: { model: LiveModel }): JSX.Element {
  const say = words().logs;
  const [follows, setFollows] = useState(true);
  const [wanted, setWanted] = useState("");
  const [replica, setReplica] = useState("");
  const book = useLog(model.uid, follows);
  const replicas = useMemo(() => replicasIn(book ?? NO_LINES), [book]);
  const shown = useMemo(() => found(book ?? NO_LINES, wanted, replica), [book, wanted, replica]);
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
        {replicas.length > 1 && (
          <select class="short" aria-label={say.replica} value={replica} onChange={(event) => setReplica(event.currentTarget.value)}>
            <option value="">{say.all}</option>
            {replicas.map((index) => (
              <option key={index} value={String(index)}>
                {say.of(index)}
              </option>
            ))}
          </select>
        )}
        <small>{say.count(shown.length, book?.lines.length ?? 0)}</small>
      </div>
      {book === null ? <Waiting /> : <Lines lines={shown} follows={follows} />}
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
