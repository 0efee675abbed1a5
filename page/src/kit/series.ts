/** What models did of late, step by step, and what one message of the stream adds to it. */
import type { ModelSeries } from "../server/shapes";

export type Numbers = readonly (number | null)[];
export type Span = { readonly step: 1 | 15; readonly seconds: number };
export const SPANS = { minutes: { step: 1, seconds: 600 }, day: { step: 15, seconds: 86_400 } } as const satisfies Record<string, Span>;

const lengthOf = (told: ModelSeries): number => Math.max(0, ...Object.values(told.series).map((numbers) => numbers.length));

/** When the step after the last begins. */
export const endOf = (told: ModelSeries): number => told.begin + told.step_s * lengthOf(told);

/** Both in one, where they overlap as the later says, and of that the last so many steps. */
export function extended(earlier: ModelSeries | null, later: ModelSeries, most: number): ModelSeries {
  if (earlier === null || lengthOf(earlier) === 0) return later;
  if (lengthOf(later) === 0) return earlier;
  const end = Math.max(endOf(earlier), endOf(later));
  const begin = Math.max(Math.min(earlier.begin, later.begin), end - most * earlier.step_s);
  const steps = Math.round((end - begin) / earlier.step_s);
  const names = Object.keys(earlier.series);
  const series = Object.fromEntries(
    names.map((name) => {
      const numbers = new Array<number | null>(steps).fill(null);
      for (const { begin: first, step_s, series } of [earlier, later]) {
        const from = Math.round((first - begin) / step_s);
        series[name]?.forEach((number, place) => {
          if (from + place >= 0) numbers[from + place] = number;
        });
      }
      return [name, numbers];
    }),
  );
  return { ...later, begin, series };
}

/** The moments of the steps: of each its end. */
export function momentsOf(told: ModelSeries): number[] {
  return Array.from({ length: lengthOf(told) }, (_, place) => told.begin + told.step_s * (place + 1));
}

export function lastOf(numbers: Numbers): number | null {
  return numbers.at(-1) ?? null;
}

export function mostOf(numbers: Numbers): number | null {
  let most: number | null = null;
  for (const number of numbers) if (number !== null && (most === null || number > most)) most = number;
  return most;
}

/** The end of an axis that begins at nought: round, and not below what is shown. */
export function topOf(most: number, least: number, base: 2 | 10 = 10): number {
  const wanted = Math.max(most * 1.05, least);
  const unit = base ** Math.floor(Math.log(wanted) / Math.log(base) + 1e-9);
  const times = base === 2 ? [1, 1.25, 1.5, 2] : [1, 1.5, 2, 3, 4, 5, 6, 8, 10];
  return unit * (times.find((each) => each * unit >= wanted) ?? base);
}

/** Where an axis of bytes may be divided. */
export const HALVES: readonly number[] = Array.from({ length: 40 }, (_, power) => 2 ** (power + 8));
