/** What happened in the whole cluster, the newest first. */
import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { useAnswer } from "../kit/answer";
import { day } from "../kit/format";
import { joined, LEVELS, PAGE, pathOf, withNews, type Level, type Wanted } from "../kit/past";
import { go, hrefOf } from "../kit/route";
import { ErrorNote, State, Waiting } from "../kit/parts";
import { get } from "../server/call";
import { fleet, models, returns, want } from "../server/live";
import type { LiveEvents, PastEvent } from "../server/shapes";
import { words } from "../words";
import { KINDS } from "./history";

export function EventsOfAll({ rest }: { rest: readonly string[] }): JSX.Element {
  const say = words().events;
  const uid = rest.join("/");
  const [level, setLevel] = useState<Level>("INFO");
  return (
    <div class="stack">
      <h1>{say.title}</h1>
      <div class="form-grid">
        <label class="field">
          <span>{say.level}</span>
          <select value={level} onChange={(event) => setLevel(LEVELS.find((each) => each === event.currentTarget.value) ?? "INFO")}>
            {LEVELS.map((each) => (
              <option key={each} value={each}>
                {say.from(each)}
              </option>
            ))}
          </select>
        </label>
        <Of uid={uid} />
      </div>
      <List key={`${level} ${uid}`} level={level} uid={uid} />
    </div>
  );
}

/** Also a model that is gone, if the address says it. */
function Of({ uid }: { uid: string }): JSX.Element {
  const say = words().events;
  const uids = models.value.map((model) => model.uid);
  const choices = uid === "" || uids.includes(uid) ? uids : [uid, ...uids];
  return (
    <label class="field">
      <span>{say.model}</span>
      <select value={uid} onChange={({ currentTarget: { value } }) => go("events", ...(value ? [value] : []))}>
        <option value="">{say.all}</option>
        {choices.map((each) => (
          <option key={each} value={each}>
            {each}
          </option>
        ))}
      </select>
    </label>
  );
}

function List({ level, uid }: { level: Level; uid: string }): JSX.Element {
  const say = words().events;
  const { value, error } = useNews({ level, uid });
  const [older, setOlder] = useState<readonly PastEvent[]>([]);
  /** The first event of all, once it is there. */
  const [end, setEnd] = useState<number | null>(null);
  const [failure, setFailure] = useState<unknown>(null);
  const events = joined(value ?? [], older);
  const last = events.at(-1);
  const more = async (before: number): Promise<void> => {
    try {
      const page = await get<readonly PastEvent[]>(pathOf({ level, uid }, before));
      setOlder([...events, ...page]);
      if (page.length < PAGE) setEnd(page.at(-1)?.id ?? before);
      setFailure(null);
    } catch (caught) {
      setFailure(caught);
    }
  };
  return (
    <>
      <ErrorNote error={error} />
      {value === null && error === null && <Waiting />}
      {value !== null && (events.length === 0 ? <p class="dim">{say.none}</p> : <Table events={events} />)}
      <ErrorNote error={failure} />
      {last && events.length >= PAGE && last.id !== end && (
        <p>
          <button onClick={() => void more(last.id)}>{say.older}</button>
        </p>
      )}
    </>
  );
}

/** The newest events, and then what happens. */
function useNews(wanted: Wanted): { value: readonly PastEvent[] | null; error: unknown } {
  const [turn, setTurn] = useState(0);
  const [news, setNews] = useState<readonly PastEvent[]>([]);
  const { value, error } = useAnswer<readonly PastEvent[]>(pathOf(wanted), `${turn} ${returns.value}`);
  useEffect(
    () =>
      want("events", "events", (data) => {
        const { events, missed } = JSON.parse(data) as LiveEvents;
        setNews((last) => withNews(last, events, wanted));
        if (missed) setTurn((last) => last + 1);
      }),
    [],
  );
  return { value: value === null ? null : withNews(value, news.toReversed(), wanted), error };
}

function Table({ events }: { events: readonly PastEvent[] }): JSX.Element {
  const say = words().events;
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={say.title}>
      <table>
        <thead>
          <tr>
            <th scope="col">{say.time}</th>
            <th scope="col">{say.level}</th>
            <th scope="col">{say.model}</th>
            <th scope="col">{say.event}</th>
          </tr>
        </thead>
        <tbody>
          {events.map((event) => (
            <tr key={event.id}>
              <td class="dim mono">{day(1000 * event.event_ts)}</td>
              <td>
                <State kind={KINDS[event.event_type] ?? "plain"}>{event.event_type}</State>
              </td>
              <td class="name">
                <Whose uid={event.model_uid} />
              </td>
              <td class="name">{event.event_content}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** A model that is gone has no screen, but its events are there. */
function Whose({ uid }: { uid: string | null }): JSX.Element {
  if (uid === null) return <span class="dim">{words().events.cluster}</span>;
  const isThere = fleet.value.models.has(uid);
  return <a href={isThere ? hrefOf("models", uid, "events") : hrefOf("events", uid)}>{uid}</a>;
}
