/** A new version on trial beside the old one: what each gets and makes of it, and what happens next. */
import type { JSX } from "preact";
import { percent, time } from "../kit/format";
import { Bar, State } from "../kit/parts";
import type { LiveCanary, LiveVersion } from "../server/shapes";
import { words } from "../words";

export function Canary({ canary }: { canary: LiveCanary }): JSX.Element {
  const say = words().canary;
  return (
    <section class="panel stack tight" aria-label={say.title}>
      <div class="row">
        <h2>{say.title}</h2>
        <State kind="busy">{say.share(canary.new.percent)}</State>
      </div>
      <Bar parts={[canary.new.percent / 100]} label={say.share(canary.new.percent)} />
      <div class="scroll" tabIndex={0} role="region" aria-label={say.versions}>
        <table>
          <thead>
            <tr>
              <th scope="col">{say.version}</th>
              <th scope="col" class="number">{say.requests}</th>
              <th scope="col" class="number">{say.failed}</th>
              <th scope="col" class="number">{say.median}</th>
              <th scope="col" class="number">{say.slowest}</th>
            </tr>
          </thead>
          <tbody>
            <Version version={canary.new} name={say.new} />
            <Version version={canary.old} name={say.old} />
          </tbody>
        </table>
      </div>
      <p class="name">{canary.next}</p>
      {canary.why && <small class="name">{canary.why}</small>}
    </section>
  );
}

function Version({ version, name }: { version: LiveVersion; name: string }): JSX.Element {
  const say = words().canary;
  const written = (seconds: number | null): string => (seconds === null ? "–" : time(seconds));
  return (
    <tr>
      <th scope="row">
        {name} <span class="dim">{say.generation(version.generation)} · {percent(version.percent / 100)}</span>
      </th>
      <td class="number">{version.requests}</td>
      <td class="number">{version.failed}</td>
      <td class="number">{written(version.median_s)}</td>
      <td class="number">{written(version.slowest_s)}</td>
    </tr>
  );
}
