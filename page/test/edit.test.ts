import { expect, test } from "vitest";
import { declaredIn, edited, written } from "../src/kit/edit";
import { fieldsOf } from "../src/kit/form";

const fields = fieldsOf({
  properties: {
    replica: { type: "integer", default: 1 },
    n_gpu: { anyOf: [{ type: "string" }, { type: "number" }, { type: "null" }], default: "auto" },
    memory: { anyOf: [{ type: "string" }, { type: "null" }], default: null },
    pinned: { type: "boolean", default: false },
  },
});
const declaration = { model_name: "m", n_gpu: null, memory: "2GiB", unknown_here: [1] };

test("what nobody touched stays as it was declared, known to the form or not", () => {
  expect(edited(declaration, declaredIn(fields, declaration), {})).toEqual(declaration);
  const touched = { memory: "2GiB", replica: "1" };
  expect(edited(declaration, declaredIn(fields, declaration), touched)).toEqual(declaration);
});

test("what was changed is declared, and what was emptied is not any more", () => {
  const after = edited(declaration, declaredIn(fields, declaration), { memory: "", replica: "3", pinned: "true", n_gpu: "auto" });
  expect(after).toEqual({ model_name: "m", n_gpu: "auto", unknown_here: [1], replica: 3, pinned: true });
});

test("values are written as people write them", () => {
  expect([undefined, null, "a", 2, [1, "b"]].map((value) => written(value, "as usual"))).toEqual(
    ["as usual", "as usual", "a", "2", '[1,"b"]'],
  );
});
