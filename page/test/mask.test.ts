import { expect, test } from "vitest";
import { after, BLANK, moved, redo, strokeOf, undo, type Stroke } from "../src/try/mask";

const stroke: Stroke = { spots: [[1, 2]], size: 4, erases: false };

test("each step is taken back and done again, in its turn", () => {
  const painted = after(after(BLANK, stroke), "invert");
  expect(painted.done).toEqual([stroke, "invert"]);
  expect(undo(undo(painted)).done).toEqual([]);
  expect(redo(redo(undo(undo(painted)))).done).toEqual([stroke, "invert"]);
  expect(undo(BLANK)).toEqual(BLANK);
  expect(redo(painted)).toEqual(painted);
});

test("after a new step there is nothing to do again", () => {
  expect(after(undo(after(BLANK, stroke)), "invert").undone).toEqual([]);
});

test("arrows move the brush, never out of the picture, and other keys do not", () => {
  expect(moved([10, 10], "ArrowRight", 5, [100, 50])).toEqual([15, 10]);
  expect(moved([98, 1], "ArrowUp", 5, [100, 50])).toEqual([98, 0]);
  expect(moved([98, 49], "ArrowDown", 5, [100, 50])).toEqual([98, 50]);
  expect(moved([10, 10], "a", 5, [100, 50])).toBeNull();
  expect(moved([10, 10], "toString", 5, [100, 50])).toBeNull();
});

test("a lasso fills what is within", () => {
  expect(strokeOf("lasso", [1, 2], 4)).toEqual({ spots: [[1, 2]], size: 4, erases: false, fills: true });
  expect(strokeOf("erase", [1, 2], 4)).toEqual({ spots: [[1, 2]], size: 4, erases: true });
});

test("how soft its edges are stays when a step is taken back", () => {
  expect(undo({ ...after(BLANK, stroke), feather: 3 }).feather).toBe(3);
});
