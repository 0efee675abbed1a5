/** Who has how much of a node, of its main memory and of each card. Pure. */
import type { CardRow, LiveModel, LiveNode, LiveWorker } from "../server/shapes";

export type Share = { readonly uid: string; readonly bytes: number };
export type Placed = { readonly uid: string; readonly worker: LiveWorker };

export type CardRoom = { readonly card: CardRow; readonly shares: readonly Share[] };

/** The workers of all models by the addresses of their nodes: once for all nodes, since there may be many of both. */
export function placed(models: readonly LiveModel[]): ReadonlyMap<string, readonly Placed[]> {
  const nodes = new Map<string, Placed[]>();
  for (const { uid, workers } of models) {
    for (const worker of workers) {
      const there = nodes.get(worker.node);
      if (there === undefined) nodes.set(worker.node, [{ uid, worker }]);
      else there.push({ uid, worker });
    }
  }
  return nodes;
}

/** What each model has of something, the largest first. */
export function sharesOf(workers: readonly Placed[], sizeOf: (worker: LiveWorker) => number): Share[] {
  const sums = new Map<string, number>();
  for (const { uid, worker } of workers) sums.set(uid, (sums.get(uid) ?? 0) + sizeOf(worker));
  return [...sums].flatMap(([uid, bytes]) => (bytes > 0 ? [{ uid, bytes }] : [])).sort((a, b) => b.bytes - a.bytes);
}

const ofCard = (number: number) => (worker: LiveWorker): number =>
  worker.cards.includes(number) ? worker.card_bytes / worker.cards.length : 0;

export const cardsOf = (node: LiveNode, workers: readonly Placed[]): CardRoom[] =>
  node.cards.map((card) => ({ card, shares: sharesOf(workers, ofCard(card.number)) }));

/** What is claimed, as far as it can be said: the shares of models, where nobody knows how large the card is. */
export const claimedOf = ({ card, shares }: CardRoom): number => card.claimed ?? shares.reduce((sum, { bytes }) => sum + bytes, 0);
