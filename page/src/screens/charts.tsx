/** What a model did of late, or all together: ten minutes by the second, and a day. */
import type { JSX } from "preact";
import { useMemo, useState } from "preact/hooks";
import { Chart, type Line } from "../kit/chart";
import { bytes, perSecond, time } from "../kit/format";
import { ErrorNote, Waiting } from "../kit/parts";
import { momentsOf, SPANS, type Numbers } from "../kit/series";
import { useSeries } from "../kit/use_series";
import type { LiveModel, ModelSeries } from "../server/shapes";
import { words } from "../words";

type SpanName = keyof typeof SPANS;
const NAMES = Object.keys(SPANS) as SpanName[];

export function ModelCharts({ model }: { model: LiveModel }): JSX.Element {
  return <Charts uid={model.uid} models={[model]} />;
}

/** Without a uid, of all models together. */
export function Charts({ uid, models }: { uid: string | null; models: readonly LiveModel[] }): JSX.Element {
  const say = words().charts;
  const [name, setName] = useState<SpanName>("minutes");
  const span = SPANS[name];
  const { told, error } = useSeries(uid, span);
  const claimed = models.flatMap((model) => model.workers).reduce((sum, worker) => sum + worker.claim_bytes, 0);
  return (
    <section class="stack tight" aria-label={say.title}>
      <div class="row spread">
        <h2>{uid === null ? say.ofAll : say.title}</h2>
        <div class="row" role="group" aria-label={say.span}>
          {NAMES.map((each) => (
            <button key={each} type="button" aria-pressed={each === name} onClick={() => setName(each)}>
              {say.spans[each]}
            </button>
          ))}
        </div>
      </div>
      <ErrorNote error={error} />
      {told === null ? error === null && <Waiting /> : <Plots told={told} seconds={span.seconds} claimed={claimed} />}
    </section>
  );
}

type PlotsProperties = { told: ModelSeries; seconds: number; claimed: number };

function Plots({ told, seconds, claimed }: PlotsProperties): JSX.Element {
  const say = words().charts;
  const moments = useMemo(() => momentsOf(told), [told]);
  const numbers = (series: string): Numbers => told.series[series] ?? [];
  const memory = numbers("memory");
  const claims = useMemo(() => memory.map((used) => (used === null ? null : claimed)), [memory, claimed]);
  const line = (series: "requests" | "errors" | "p50" | "p99" | "waiting" | "batch" | "tokens"): Line => ({ label: say.lines[series], numbers: numbers(series) });
  const shared = { moments, seconds };
  return (
    <>
      <div class="charts">
        <Chart {...shared} title={say.requests} lines={[line("requests"), line("errors")]} write={perSecond} least={1} />
        <Chart {...shared} title={say.times} lines={[line("p50"), line("p99")]} write={time} least={0.01} />
        <Chart {...shared} title={say.waiting} lines={[line("waiting")]} write={perSecond} least={1} />
        <Chart {...shared} title={say.batch} lines={[line("batch")]} write={perSecond} least={1} />
        <Chart {...shared} title={say.tokens} lines={[line("tokens")]} write={perSecond} least={10} />
        <Chart
          {...shared}
          title={say.memory}
          lines={[
            { label: say.used, numbers: memory },
            { label: say.claimed, numbers: claims },
          ]}
          write={bytes}
          least={2 ** 20}
          base={2}
        />
      </div>
      <small>{say.help}</small>
    </>
  );
}
