import { expect, test } from "vitest";
import { LINE_PX, sightOf } from "../src/kit/lines";

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
