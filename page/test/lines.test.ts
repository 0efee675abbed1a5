import { expect, test } from "vitest";
import { ALL, LINE_PX, ROW_PX, rowsOf, sightOf } from "../src/kit/lines";

test("of many lines those within sight are drawn, and some beyond the edges", () => {
  const { first, last } = sightOf(5000 * LINE_PX, 25 * LINE_PX, 10_000);
  expect(first).toBeLessThan(5000);
  expect(first).toBeGreaterThan(4900);
  expect(last).toBeGreaterThan(5025);
  expect(last).toBeLessThan(5125);
});

test("there is never more to draw than there is, nor less than nothing", () => {
  expect(sightOf(0, 500, 0)).toEqual({ first: 0, last: 0 });
  expect(sightOf(0, 500, 3)).toEqual({ first: 0, last: 3 });
  expect(sightOf(900 * LINE_PX, 500, 3)).toEqual({ first: 3, last: 3 });
});

test("rows of a table come some at once, and those of a short one are all there", () => {
  expect(rowsOf(500, 800, ALL)).toEqual({ first: 0, last: ALL });
  const { first, last } = rowsOf(500 * ROW_PX, 20 * ROW_PX, 1000);
  expect(first % 10).toBe(0);
  expect(first).toBeLessThanOrEqual(500);
  expect(last).toBeGreaterThanOrEqual(520);
  expect(last - first).toBeLessThan(110);
  expect(rowsOf(1e6, 800, 1000).last).toBe(1000);
});
