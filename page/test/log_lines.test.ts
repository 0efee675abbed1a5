import { expect, test } from "vitest";
import { found, replicasIn, withNews } from "../src/kit/log_lines";
import type { LiveLines } from "../src/server/shapes";

test("lines that come stand behind those that are there, unless they are all there are", () => {
  const told = (whole: boolean, lines: string[], replicas: number[]): LiveLines => ({ model: "m", whole, lines, replicas, cursor: "" });
  const first = withNews(null, told(true, ["a", "b"], [0, 1]));
  const both = withNews(first, told(false, ["A again"], [0]));
  expect(both).toEqual({ lines: ["a", "b", "A again"], replicas: [0, 1, 0] });
  expect(withNews(both, told(true, ["new"], [2])).lines).toEqual(["new"]);
  expect(replicasIn(both)).toEqual([0, 1]);
  expect(found(both, "a", "")).toEqual(["a", "A again"]);
  expect(found(both, "", "1")).toEqual(["b"]);
});
