import { expect, test } from "vitest";
import { bytes, duration, ofTotal } from "../src/kit/format";
import { matching } from "../src/kit/palette";
import { hrefOf, placeOf } from "../src/kit/route";
import { curlOf, openaiOf, pythonOf } from "../src/kit/snippets";
import { amended, NOTHING } from "../src/server/changes";
import type { LiveChange, LiveModel } from "../src/server/shapes";
import { eventsIn } from "../src/server/sse";
import { nearest, similarities } from "../src/try/similar";

const model = (uid: string, state = "READY"): LiveModel =>
  ({ uid, state, workers: [] }) as unknown as LiveModel;
const change = (fields: Partial<LiveChange>): LiveChange => ({
  whole: false,
  models: [],
  gone: [],
  nodes: null,
  has_control: true,
  server: "1",
  ...fields,
});

test("the whole state replaces what was known, and a difference changes it", () => {
  const first = amended(NOTHING, change({ whole: true, models: [model("a"), model("b")] }));
  const second = amended(first, change({ models: [model("b", "FAILED")], gone: ["a"] }));
  expect([...second.models.keys()]).toEqual(["b"]);
  expect(second.models.get("b")?.state).toBe("FAILED");
  expect([...first.models.keys()]).toEqual(["a", "b"]);
  expect([...amended(second, change({ whole: true })).models.keys()]).toEqual([]);
});

test("a place and its address are the same thing", () => {
  for (const parts of [["models"], ["models", "a/b c#é", "logs"], ["launch", "image", "x%2F"]]) {
    const [screen = "", ...rest] = parts;
    expect(placeOf(hrefOf(...parts))).toEqual({ screen, rest });
  }
  expect(placeOf("")).toEqual({ screen: "models", rest: [] });
  expect(placeOf("#/models/%E0%A4%A").rest).toEqual(["%E0%A4%A"]);
});

test("events are whole, wherever the pieces of the answer were cut", () => {
  const text = 'event: a\ndata: {"x":1}\n\n: beat\n\ndata: {"x":2}\r\n\r\ndata: [DONE]\n\n';
  for (let cut = 0; cut <= text.length; cut += 1) {
    const first = eventsIn(text.slice(0, cut));
    const second = eventsIn(first.rest + text.slice(cut));
    expect([...first.events, ...second.events]).toEqual(['{"x":1}', '{"x":2}', "[DONE]"]);
  }
});

test("sizes and durations read as in the commands", () => {
  expect([bytes(0), bytes(1023), bytes(1536), bytes(475 * 2 ** 20), bytes(2.04 * 2 ** 40)]).toEqual([
    "0 B",
    "1023 B",
    "1.5 KiB",
    "475 MiB",
    "2.0 TiB",
  ]);
  expect([duration(0), duration(59.6), duration(3600), duration(90061)]).toEqual(["0 s", "1 min", "1 h", "1 d 1 h"]);
});

test("a few letters in their order find a name, those at its beginning first", () => {
  const targets = ["bge-m3", "my-bge", "b-large-e", "other"].map((label) => ({ label, parts: [label] }));
  const labels = (typed: string): string[] => matching(targets, typed).map((target) => target.label);
  expect(labels("bge")).toEqual(["bge-m3", "my-bge", "b-large-e"]);
  expect(labels("")).toHaveLength(4);
  expect(labels("zz")).toEqual([]);
});

test("the nearest two are found", () => {
  const matrix = similarities([
    [1, 0],
    [0, 2],
    [0.1, 3],
    [0, 0],
  ]);
  expect(nearest(matrix)).toEqual([1, 2]);
  expect(matrix[3]?.[3]).toBe(0);
  expect(nearest([[1]])).toBeNull();
});

test("code holds no key, and what is in it cannot break out of its quotes", () => {
  const request = { origin: "http://x", path: "/v1/embeddings", body: { model: "m", input: ["it's; $(rm -rf /) `x`"] } };
  expect(curlOf(request)).toContain(`'{"model":"m","input":["it'\\''s; $(rm -rf /) \`x\`"]}'`);
  expect(curlOf(request)).toContain("$CLUSTER_API_KEY");
  expect(openaiOf(request)).toContain(`input=["it's; $(rm -rf /) \`x\`"]`);
  expect(openaiOf({ ...request, path: "/v1/rerank" })).toBeNull();
  expect(pythonOf({ a: [true, null, 1.5] })).toBe('{"a": [True, None, 1.5]}');
});

test("a part and its whole share their unit", () => {
  expect(ofTotal(40 * 2 ** 30, 80 * 2 ** 30)).toBe("40 / 80 GiB");
  expect(ofTotal(300 * 2 ** 20, 80 * 2 ** 30)).toBe("300 MiB / 80 GiB");
  expect(ofTotal(0, 80 * 2 ** 30)).toBe("0 B / 80 GiB");
});
