import { expect, test } from "vitest";
import { joined, PAGE, pathOf, withNews } from "../src/kit/past";
import type { PastEvent } from "../src/server/shapes";

const events = (from: number, count: number): PastEvent[] =>
  Array.from({ length: count }, (_, place) => ({ id: from - place }) as unknown as PastEvent);
const ids = (list: readonly PastEvent[]): number[] => list.map((event) => event.id);

test("pages of events are one list without gaps", () => {
  const older = events(300, 2 * PAGE);
  expect(ids(joined(events(310, PAGE), older))).toEqual(ids(events(310, 2 * PAGE + 10)));
  expect(ids(joined(events(300, PAGE), older))).toEqual(ids(older));
  expect(ids(joined(events(900, PAGE), older))).toEqual(ids(events(900, PAGE)));
  expect(ids(joined(events(3, 3), []))).toEqual([3, 2, 1]);
  expect(joined([], older)).toEqual([]);
});

test("a question for events says what is wanted and no more", () => {
  expect(pathOf({ level: "INFO", uid: "" })).toBe("/v1/events?limit=100&level=INFO");
  expect(pathOf({ level: "ERROR", uid: "a&b/c" }, 7)).toBe("/v1/events?limit=100&level=ERROR&uid=a%26b%2Fc&before=7");
});

test("of what happens only what is wanted stands before the rest, and nothing twice", () => {
  const event = (id: number, event_type: string, model_uid: string): PastEvent => ({ id, event_type, model_uid, event_ts: 0, event_content: "" });
  const news = [event(2, "INFO", "m"), event(3, "ERROR", "m"), event(4, "WARNING", "n"), event(5, "INFO", "m")];
  const before = [event(2, "INFO", "m"), event(1, "INFO", "m")];
  expect(ids(withNews(before, news, { level: "INFO", uid: "" }))).toEqual([5, 4, 3, 2, 1]);
  expect(ids(withNews([], news, { level: "WARNING", uid: "" }))).toEqual([4, 3]);
  expect(ids(withNews(before, news, { level: "INFO", uid: "m" }))).toEqual([5, 3, 2, 1]);
});
