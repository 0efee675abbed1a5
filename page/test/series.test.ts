import { expect, test } from "vitest";
import { endOf, extended, momentsOf, mostOf, topOf } from "../src/kit/series";
import { rowsOf } from "../src/kit/paces";
import { perSecond, time } from "../src/kit/format";
import type { LivePace, ModelSeries } from "../src/server/shapes";

const told = (begin: number, ...waiting: (number | null)[]): ModelSeries => ({
  model: "m",
  step_s: 1,
  begin,
  series: { waiting },
  ingress: "a",
  since: 0,
});

test("what came later goes behind, and is right where both tell of a step", () => {
  const both = extended(told(10, 1, 2, 3), told(12, 30, 4), 100);
  expect([both.begin, both.series.waiting, endOf(both)]).toEqual([10, [1, 2, 30, 4], 14]);
  expect(momentsOf(both)).toEqual([11, 12, 13, 14]);
  expect(extended(told(10, 1), told(13, 2), 100).series.waiting).toEqual([1, null, null, 2]);
  // The answer to the first question may come after what the stream has told since.
  expect(extended(told(12, 3), told(10, 1, 2), 100).series.waiting).toEqual([1, 2, 3]);
  expect(extended(null, told(1, 1), 100)).toEqual(told(1, 1));
  expect(extended(told(1, 1), told(2), 100)).toEqual(told(1, 1));
});

test("only as many steps are kept as are shown, and only the series that were asked for", () => {
  const more = { ...told(12, 3, 4), series: { waiting: [3, 4], batch: [1, 1] } };
  const cut = extended(told(10, 1, 2), more, 3);
  expect([cut.begin, cut.series]).toEqual([11, { waiting: [2, 3, 4] }]);
});

test("an axis ends at a round number that is not below what is shown", () => {
  expect([topOf(0, 1), topOf(1, 1), topOf(7, 1), topOf(95, 1), topOf(0.004, 0.01)]).toEqual([1, 1.5, 8, 100, 0.01]);
  expect([topOf(900, 1, 2), topOf(2 ** 30, 1, 2), topOf(0, 2 ** 20, 2)]).toEqual([1024, 1.25 * 2 ** 30, 2 ** 20]);
  expect(mostOf([null, 3, null, 1])).toBe(3);
  expect(mostOf([null])).toBeNull();
});

test("numbers are as exact as they are small", () => {
  expect([0, 0.25, 3, 12.3, 123.4, 1234, 12_345, 2_000_000].map(perSecond)).toEqual(["0", "0.3", "3", "12", "123", "1.2k", "12k", "2.0M"]);
  expect([0, 0.0042, 0.25, 2.34, 75].map(time)).toEqual(["0", "4.2 ms", "250 ms", "2.3 s", "1 min 15 s"]);
});

test("workers of models where more waits come first", () => {
  const pace = (model: string, index: number, waiting: number): LivePace => ({ model, index, waiting }) as LivePace;
  const paces = new Map([
    ["1", pace("a", 0, 0)],
    ["2", pace("b", 1, 2)],
    ["3", pace("b", 0, 1)],
  ]);
  expect(rowsOf(paces).map(([name]) => name)).toEqual(["3", "2", "1"]);
});
