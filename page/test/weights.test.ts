import { expect, test } from "vitest";
import { deletionOf, storedOf, totalOf } from "../src/kit/weights";
import type { CachedRow } from "../src/server/shapes";

const cached = (fields: Partial<CachedRow>): CachedRow => ({
  model_name: "m",
  model_type: null,
  model_hub: "huggingface",
  model_version: "c1",
  path: "/w",
  real_path: "/w",
  size_bytes: 10,
  complete: true,
  actor_ip_address: "n0",
  used_by: [],
  ...fields,
});

test("weights are one row, however many nodes have them, the largest first", () => {
  const rows = [
    cached({ used_by: ["a"] }),
    cached({ actor_ip_address: "n1", size_bytes: 4, complete: false, used_by: ["a", "b"] }),
    cached({ model_version: "c2", size_bytes: 20 }),
  ];
  const [large, small, ...others] = storedOf(rows);
  expect(others).toEqual([]);
  expect([large?.version, large?.isPartial, large?.usedBy]).toEqual(["c2", false, []]);
  expect([small?.nodes, small?.size, small?.isPartial, small?.usedBy]).toEqual([["n0", "n1"], 10, true, ["a", "b"]]);
  expect(totalOf(rows)).toBe(34);
});

test("weights are deleted by their version, or by the name that stands in its place", () => {
  const paths = [cached({ model_version: "a/b&c" }), cached({ model_version: null, model_name: "x y" })].map((row) =>
    storedOf([row]).map(deletionOf),
  );
  expect(paths).toEqual([["/v1/cache/models?model_version=a%2Fb%26c"], ["/v1/cache/models?model_version=x%20y"]]);
});
