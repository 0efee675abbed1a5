import { expect, test } from "vitest";
import { flat } from "../src/try/plane";

const apart = (places: readonly (readonly [number, number])[], a: number, b: number): number =>
  Math.hypot((places[a]?.[0] ?? 0) - (places[b]?.[0] ?? 0), (places[a]?.[1] ?? 0) - (places[b]?.[1] ?? 0));

test("what lies in a plane keeps its distances, to a scale", () => {
  const places = flat([[0, 0, 5], [4, 0, 5], [0, 2, 5], [4, 2, 5]]);
  expect(apart(places, 0, 1) / apart(places, 0, 2)).toBeCloseTo(2, 5);
  expect(apart(places, 0, 3) / apart(places, 1, 2)).toBeCloseTo(1, 5);
  for (const [x, y] of places) for (const part of [x, y]) expect(Math.abs(part - 0.5)).toBeLessThanOrEqual(0.5);
});

test("one vector, and equal ones, are in the middle", () => {
  expect(flat([])).toEqual([]);
  expect(flat([[1, 2]])).toEqual([[0.5, 0.5]]);
  expect(flat([[1, 2], [1, 2]])).toEqual([[0.5, 0.5], [0.5, 0.5]]);
});
