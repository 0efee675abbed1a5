import { expect, test } from "vitest";
import { bodyOf, fieldsOf, textOf, valueOf, type Schema } from "../src/kit/form";

const SCHEMA: Schema = {
  properties: {
    uid: { anyOf: [{ type: "string" }, { type: "null" }], default: null, description: "Its name." },
    replica: { type: "integer", minimum: 1, maximum: 9, default: 1 },
    n_gpu: { anyOf: [{ type: "number" }, { const: "auto", type: "string" }, { type: "null" }], default: "auto" },
    hub: { anyOf: [{ enum: ["a", "b"], type: "string" }, { type: "null" }], default: null },
    nf4: { anyOf: [{ type: "boolean" }, { const: "auto", type: "string" }], default: "auto" },
    tiling: { type: "boolean", default: false },
    cards: { anyOf: [{ type: "array", items: { type: "integer" } }, { type: "null" }], default: null },
    places: { type: "array", items: { type: "object" }, default: [] },
  },
};

test("each field is what its schema says", () => {
  const kinds = Object.fromEntries(fieldsOf(SCHEMA).map((field) => [field.name, field.kind]));
  expect(kinds).toEqual({
    uid: "text",
    replica: "number",
    n_gpu: "text",
    hub: "choice",
    nf4: "choice",
    tiling: "switch",
    cards: "list",
    places: "json",
  });
});

test("only what differs from the preset is sent, as the server takes it", () => {
  const fields = fieldsOf(SCHEMA);
  expect(bodyOf(fields, {})).toEqual({});
  const texts = { uid: "m", replica: "3", n_gpu: "0.5", nf4: "true", tiling: "true", cards: "0, 1", places: '[{"a":1}]' };
  expect(bodyOf(fields, texts)).toEqual({
    uid: "m",
    replica: 3,
    n_gpu: 0.5,
    nf4: true,
    tiling: true,
    cards: [0, 1],
    places: [{ a: 1 }],
  });
  expect(bodyOf(fields, { replica: "1", uid: "", n_gpu: "auto" })).toEqual({});
});

test("a model's own defaults come before the schema's", () => {
  const [field] = fieldsOf({ properties: { size: { type: "integer", default: 1 } } }, { size: 4 });
  expect(field?.preset).toBe("4");
});

test("what is no JSON is sent as it is, so that the server says what is wrong", () => {
  const [field] = fieldsOf({ properties: { envs: { type: "object" } } });
  expect(field && valueOf(field, "{oops")).toBe("{oops");
});

test("a rung of the ladder fills fields of every kind", () => {
  expect([textOf(true, "switch"), textOf(["a", "b"], "list"), textOf({ a: 1 }, "json"), textOf(null, "text")]).toEqual([
    "true",
    "a, b",
    '{"a":1}',
    "",
  ]);
});
