import { expect, test } from "vitest";
import { after, BLANK, redo, undo, type Stroke } from "../src/try/mask";

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
