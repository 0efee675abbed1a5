import { expect, test } from "vitest";
import { cardsOf, claimedOf, placed, sharesOf } from "../src/kit/cards";
import type { CardRow, LiveModel, LiveNode, LiveWorker } from "../src/server/shapes";

const worker = (node: string, cards: readonly number[], card_bytes: number): LiveWorker =>
  ({ node, cards, card_bytes, claim_bytes: 1 }) as unknown as LiveWorker;
const model = (uid: string, ...workers: LiveWorker[]): LiveModel => ({ uid, workers }) as unknown as LiveModel;
const card = (number: number, claimed: number | null): CardRow => ({ number, claimed, total: 24, foreign: 0 }) as unknown as CardRow;
const node = { cards: [card(0, 12), card(1, null)] } as unknown as LiveNode;

test("a model has its part of each of its cards, and of no other node's", () => {
  const nodes = placed([model("flux", worker("a", [0, 1], 20), worker("b", [0], 9)), model("small", worker("a", [0], 2))]);
  const [first, second] = cardsOf(node, nodes.get("a") ?? []);
  expect(first?.shares).toEqual([{ uid: "flux", bytes: 10 }, { uid: "small", bytes: 2 }]);
  expect([first, second].map((room) => room && claimedOf(room))).toEqual([12, 10]);
});

test("replicas of a model on one node are one share, and what has nothing is none", () => {
  const [there] = [placed([model("m", worker("a", [], 0), worker("a", [], 0)), model("none")]).get("a")];
  expect(sharesOf(there ?? [], ({ claim_bytes }) => claim_bytes)).toEqual([{ uid: "m", bytes: 2 }]);
  expect(sharesOf(there ?? [], ({ card_bytes }) => card_bytes)).toEqual([]);
});
