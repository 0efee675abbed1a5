/** What each worker does right now: who waits, how large batches are, and what need not be computed. */
import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { perSecond, percent } from "../kit/format";
import { hrefOf } from "../kit/route";
import { rowsOf, type Paces } from "../kit/paces";
import { want } from "../server/live";
import type { LivePace, LivePaces } from "../server/shapes";
import { words } from "../words";

export function Queues(): JSX.Element {
  const say = words().queues;
  const [paces, setPaces] = useState<Paces>(new Map());
  useEffect(() => {
    const take = (data: string): void => {
      const news = JSON.parse(data) as LivePaces;
      setPaces((last) => {
        const next = new Map(news.whole ? [] : last);
        for (const [name, pace] of Object.entries(news.workers)) next.set(name, pace);
        for (const name of news.gone) next.delete(name);
        return next;
      });
    };
    return want("workers", "workers", take);
  }, []);
  const rows = rowsOf(paces);
  if (rows.length === 0) return <p class="dim">{say.none}</p>;
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={say.title}>
      <table>
        <thead>
          <tr>
            <th scope="col">{say.model}</th>
            <th scope="col" class="number">{say.replica}</th>
            <th scope="col" class="number">{say.waiting}</th>
            <th scope="col" class="number">{say.running}</th>
            <th scope="col" class="number">{say.batch}</th>
            <th scope="col" class="number wide">{say.requests}</th>
            <th scope="col" class="number">{say.tokens}</th>
            <th scope="col" class="number wide">{say.shared}</th>
            <th scope="col" class="number wide">{say.cache}</th>
          </tr>
        </thead>
        <tbody>
          {rows.map(([name, pace]) => (
            <Row key={name} pace={pace} />
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Row({ pace }: { pace: LivePace }): JSX.Element {
  const asked = pace.cache_hits + pace.cache_misses;
  return (
    <tr>
      <th scope="row" class="name">
        <a href={hrefOf("models", pace.model, "charts")}>{pace.model}</a>
      </th>
      <td class="number">{pace.index}</td>
      <td class="number">{pace.waiting}</td>
      <td class="number">{pace.running}</td>
      <td class="number">{perSecond(pace.batch)}</td>
      <td class="number wide">{perSecond(pace.requests)}</td>
      <td class="number">{perSecond(pace.tokens)}</td>
      <td class="number wide">{pace.shared}</td>
      <td class="number wide">{asked === 0 ? "–" : `${percent(pace.cache_hits / asked)} ${words().queues.of(asked)}`}</td>
    </tr>
  );
}
