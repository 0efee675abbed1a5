import { expect, test } from "vitest";
import { draftOf, spotOf } from "../src/kit/registration";

test("a draft is what somebody wrote, without what the server adds", () => {
  const fields = { model_name: "m", is_builtin: false, version: 2, aliases: ["n"], licence: null, options: {}, model_specs: [{}] };
  expect(JSON.parse(draftOf(fields))).toEqual({ model_name: "m", aliases: ["n"], model_specs: [{}] });
  expect(JSON.parse(draftOf({ ...fields, is_builtin: true }))).toEqual({ model_name: "my-m", model_specs: [{}] });
});

const TEXT = `{
  "model_name": "mine",
  "max_tokens": "many",
  "model_hub": "nowhere"
}`;
const lineOf = (message: string, field: string | null = null, text = TEXT): number | null => spotOf(text, { message, field })?.line ?? null;

test("an error of a registration is found in its text", () => {
  expect(lineOf("It is not JSON: Expecting ',' delimiter: line 3 column 5 (char 30).")).toBe(3);
  expect(lineOf("It is not TOML: Invalid value (at line 2, column 8).", null, "a = 1\nb = what\n")).toBe(2);
  expect(lineOf("The embedding model 'mine': max_tokens takes a whole number above 0, not 'many'.")).toBe(3);
  expect(lineOf("Weights cannot come from 'nowhere'.", "model_hub")).toBe(4);
  expect(lineOf("'mine' cannot be registered: 'mine' is a built-in embedding model.")).toBe(2);
  expect(lineOf("The row is wrong: max_tokens.", null, '[[model]]\nname = "m"\n\n max_tokens = "x"')).toBe(4);
  expect(lineOf("The registration has no licence.")).toBeNull();
});

test("what is selected is the field with its value, and never beyond the text", () => {
  const spot = spotOf(TEXT, { message: "", field: "max_tokens" });
  expect(spot && TEXT.slice(spot.start, spot.end)).toBe('"max_tokens": "many",');
  const beyond = spotOf("{", { message: "line 9 column 9", field: null });
  expect([beyond?.start, beyond?.end]).toEqual([1, 1]);
  expect(spotOf("a(b", { message: "", field: "a(b" })).toBeNull();
});
