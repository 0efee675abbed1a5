import { expect, test } from "vitest";
import { replicasOf } from "../src/kit/states";

test("replicas are counted as they are and as they are to be", () => {
  const scale = { min: 0, max: 4, target_queue_s: 1, why: "" };
  expect(replicasOf({ ready: 1, replica: 2, scale: null, state: "READY" })).toBe("1/2");
  expect(replicasOf({ ready: 2, replica: 2, scale, state: "READY" })).toBe("2");
  expect(replicasOf({ ready: 1, replica: 2, scale, state: "READY" })).toBe("1/2");
  expect(replicasOf({ ready: 0, replica: 1, scale, state: "ASLEEP" })).toBe("0");
  expect(replicasOf({ ready: 0, replica: 1, scale, state: "DOZING" })).toBe("0");
});
