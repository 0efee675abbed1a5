/** Lines over time, drawn by uPlot; what they mean and say stands in words beside them. */
import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { words } from "../words";
import { clock } from "./format";
import { isDark } from "./scheme";
import { HALVES, lastOf, mostOf, topOf, type Numbers } from "./series";

export type Line = { readonly label: string; readonly numbers: Numbers };
export type ChartProperties = {
  title: string;
  lines: readonly Line[];
  /** Seconds since 1970, one for each number. */
  moments: readonly number[];
  seconds: number;
  write: (number: number) => string;
  /** The end of the axis where nothing is higher. */
  least: number;
  /** Of the numbers at the axis; 10 where none is said. */
  base?: 2 | 10;
};

const HEIGHT = 132;
/** Space at the left for numbers, the same in all charts, so that they stand in line. */
const AXIS = 60;
/** Those after the first are dashed: nobody has to tell colours apart. */
const DASHES = [[], [6, 4]];

export function Chart(properties: ChartProperties): JSX.Element {
  const { title, lines, moments, write } = properties;
  const [place, setPlace] = useState<number | null>(null);
  const value = (numbers: Numbers): string => {
    const number = place === null ? lastOf(numbers) : (numbers[place] ?? null);
    return number === null ? "–" : write(number);
  };
  const moment = place === null ? undefined : moments[place];
  return (
    <figure class="chart">
      <figcaption class="row spread">
        <h3>{title}</h3>
        <span class="legend">
          {lines.map(({ label, numbers }, number) => (
            <span key={label} class="line" data-line={number}>
              {label} <b>{value(numbers)}</b>
            </span>
          ))}
          {moment !== undefined && <span>{clock(1000 * moment)}</span>}
        </span>
      </figcaption>
      <Plot {...properties} onPlace={setPlace} />
    </figure>
  );
}

function labelOf({ title, lines, write }: ChartProperties): string {
  const said = lines.map(({ label, numbers }) => {
    const [last, most] = [lastOf(numbers), mostOf(numbers)];
    return words().charts.said(label, last === null ? "–" : write(last), most === null ? "–" : write(most));
  });
  return `${title}: ${said.join("; ")}`;
}

type PlotProperties = ChartProperties & { onPlace: (place: number | null) => void };

function Plot(properties: PlotProperties): JSX.Element {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const { lines, moments, seconds } = properties;
  const data: uPlot.AlignedData = [[...moments], ...lines.map(({ numbers }) => [...numbers])];
  useEffect(() => {
    const element = box.current;
    if (element === null) return;
    const made = (plot.current = new uPlot(optionsOf(properties, element), data, element));
    const watching = new ResizeObserver(() => made.setSize({ width: element.clientWidth, height: HEIGHT }));
    watching.observe(element);
    return () => {
      watching.disconnect();
      made.destroy();
    };
    // Colours are read when a chart is made.
  }, [seconds, isDark.value, lines.length]);
  useEffect(() => plot.current?.setData(data), [moments, ...lines.map(({ numbers }) => numbers)]);
  return <div class="plot" ref={box} role="img" aria-label={labelOf(properties)} />;
}

/** As it is computed: uPlot cannot read names of colours. */
function colourOf(element: HTMLElement, name: string): string {
  const probe = element.appendChild(document.createElement("i"));
  probe.style.color = `var(${name})`;
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

function optionsOf({ lines, seconds, write, least, base = 10, onPlace }: PlotProperties, element: HTMLElement): uPlot.Options {
  const colours = [colourOf(element, "--accent"), colourOf(element, "--warn")];
  const [dim, line] = [colourOf(element, "--dim"), colourOf(element, "--line")];
  const axis = { stroke: dim, font: "11px system-ui, sans-serif", grid: { stroke: line, width: 1 }, ticks: { show: false } };
  return {
    width: element.clientWidth,
    height: HEIGHT,
    padding: [8, 8, 0, 0],
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 5 }, sync: { key: "moments" } },
    scales: {
      x: { range: (_, __, last) => [last - seconds, last] },
      y: { range: (_, __, most) => [0, topOf(most ?? 0, least, base)] },
    },
    axes: [
      { ...axis, size: 24, space: 64, values: (_, splits) => splits.map((split) => clock(1000 * split).slice(0, 5)) },
      { ...axis, size: AXIS, space: 32, ...(base === 2 ? { incrs: [...HALVES] } : {}), values: (_, splits) => splits.map(write) },
    ],
    series: [
      {},
      ...lines.map((_, number) => ({
        stroke: colours[number % colours.length] ?? dim,
        width: 1.5,
        dash: DASHES[number % DASHES.length] ?? [],
        points: { show: false },
      })),
    ],
    hooks: { setCursor: [(made) => onPlace(made.cursor.idx ?? null)] },
  };
}
