"""The room that is left on all nodes, in which replicas are placed one after another. Pure.

What the nodes offer is worked out once for each kind of demand, and after that again for those nodes only on which
something was placed meanwhile: thousands of replicas on as many nodes cost thousands of steps, not millions.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from cluster.control.held import NOTHING, Held, Taken, totals
from cluster.control.lifecycle import HOLDS_CLAIM, WorkerRecord
from cluster.control.placement import (
    Demand,
    NoRoom,
    Placement,
    can_hold,
    closed_for,
    is_for_cards,
    offer_of,
    rank_of,
    rooms_of,
)
from cluster.control.workers import Workers
from cluster.status import Claim, Node

#: How good the offer of a node is, its number, and how often that node had changed by then.
Ranked = tuple[tuple[float, float, str], int, int]


class Room:
    def __init__(
        self,
        nodes: Sequence[Node],
        held: Mapping[str, Held],
        nodes_of: Callable[[str], Iterable[str]],
        memory_fraction: float = 1.0,
    ) -> None:
        """`nodes_of` a model: the node of each of its workers."""
        self.nodes = tuple(nodes)
        self._numbers = {node.id: number for number, node in enumerate(self.nodes)}
        self._held = dict(held)
        self._nodes_of = nodes_of
        self._memory_fraction = memory_fraction
        #: Workers of each model on each node, as far as they have been asked for.
        self._spread: dict[str, Counter[str]] = {}
        #: Where something was placed, in that order.
        self._changes: list[int] = []
        self._offers: dict[Hashable, _Offers] = {}
        #: Nodes that give nothing more.
        self._closed: set[str] = set()

    @classmethod
    def beside(cls, nodes: Sequence[Node], taken: Iterable[Taken], memory_fraction: float = 1.0) -> Room:
        """What is left beside these."""
        by_model: dict[str, list[str]] = {}
        taken = tuple(taken)
        for item in taken:
            by_model.setdefault(item.uid, []).append(item.node)
        return cls(nodes, totals(taken), lambda uid: by_model.get(uid, ()), memory_fraction)

    def place(self, demand: Demand) -> Placement | NoRoom:
        """The best node, or the reasons; nothing is taken yet.

        Replicas of one model spread over nodes first. Then, for GPUs, the tightest card that fits wins, on the node
        with the fewest free cards: whole cards, and several on one node, stay free for models that need them. Without
        GPUs the node with the most free memory wins.
        """
        offers = self._offers_for(demand)
        number = offers.best(self._spread_of(demand.uid))
        if number is None:
            return NoRoom(demand.uid, offers.reasons())
        claim = offers.offers[number]
        assert isinstance(claim, Claim)
        return Placement(self.nodes[number].id, claim)

    def take(self, uid: str, placement: Placement) -> None:
        node = placement.node
        self._held[node] = self._held.get(node, NOTHING).plus(placement.claim)
        self._spread_of(uid)[node] += 1
        self._changes.append(self._numbers[node])

    def give_back(self, node: str, claim: Claim) -> None:
        self._held[node] = self._held.get(node, NOTHING).minus(claim)
        self._changes.append(self._numbers[node])

    def claim_more(self, node: str, claim: Claim) -> None:
        """For a worker that is there already."""
        self._held[node] = self._held.get(node, NOTHING).plus(claim)
        self._changes.append(self._numbers[node])

    def close(self, node: str) -> None:
        """Keeps what is left there, if that node is there."""
        if node in self._numbers:
            self._closed.add(node)
            self._changes.append(self._numbers[node])

    def fits_without(self, demand: Demand, node: str, claims: Iterable[Claim]) -> bool:
        """Whether it would fit on that node if these workers of it were gone."""
        number = self._numbers.get(node)
        if number is None or node in self._closed:
            return False
        held = self._held.get(node, NOTHING)
        for claim in claims:
            held = held.minus(claim)
        on_card = self._offers_for(demand).on_card
        return isinstance(offer_of(demand, self.nodes[number], held, on_card, self._memory_fraction), Claim)

    def has_back(self, node: str, resting: Claim, whole: Claim) -> bool:
        """Whether a worker that rests there can have all of its claim again, on the same cards."""
        number = self._numbers.get(node)
        if number is None or node in self._closed:
            return False
        held = self._held.get(node, NOTHING).minus(resting)
        return can_hold(self.nodes[number], held, whole, self._memory_fraction)

    def most(self, demand: Demand) -> int | None:
        """The most that a launch could claim now on any node that is open to it, of a card or of main memory; None
        where nobody knows how much a card has."""
        on_card = is_for_cards(demand, self.nodes)
        rooms: list[int | None] = [0]
        for node in self.nodes:
            if closed_for(demand, node) is None:
                rooms += rooms_of(demand, node, self._held.get(node.id, NOTHING), on_card, self._memory_fraction)
        return None if None in rooms else max(room or 0 for room in rooms)

    def is_closed(self, number: int) -> bool:
        return self.nodes[number].id in self._closed

    def held_on(self, number: int) -> Held:
        return self._held.get(self.nodes[number].id, NOTHING)

    def _spread_of(self, uid: str) -> Counter[str]:
        if uid not in self._spread:
            self._spread[uid] = Counter(self._nodes_of(uid))
        return self._spread[uid]

    def _offers_for(self, demand: Demand) -> _Offers:
        offers = self._offers.get(demand.kind)
        if offers is None:
            offers = self._offers[demand.kind] = _Offers(demand, self, self._memory_fraction)
        offers.catch_up(self._changes)
        return offers


def room_beside(workers: Workers, nodes: Sequence[Node], memory_fraction: float, without: str = "") -> Room:
    """What is left beside all workers, or beside those of all models but one."""

    def of(uid: str) -> list[WorkerRecord]:
        return [worker for worker in workers.of(uid) if worker.state in HOLDS_CLAIM]

    held = dict(workers.held)
    for worker in of(without):
        held[worker.node] = held[worker.node].minus(worker.claim)
    return Room(nodes, held, lambda uid: [w.node for w in of(uid) if uid != without], memory_fraction)


class _Offers:
    """What every node offers for one kind of demand, the best first."""

    def __init__(self, demand: Demand, room: Room, memory_fraction: float) -> None:
        self._demand = demand
        self._room = room
        self._memory_fraction = memory_fraction
        self.on_card = is_for_cards(demand, room.nodes)
        #: By the number of the node: what it would give, or why nothing.
        self.offers: list[Claim | str] = [""] * len(room.nodes)
        self._changed = [0] * len(room.nodes)
        self._ranked: list[Ranked] = []
        self._seen = 0
        self._reasons: tuple[tuple[str, str], ...] | None = None
        for number in range(len(room.nodes)):
            self._look_at(number)

    def catch_up(self, changes: Sequence[int]) -> None:
        for number in dict.fromkeys(changes[self._seen :]):
            self._changed[number] += 1
            self._look_at(number)
            self._reasons = None
        self._seen = len(changes)

    def _look_at(self, number: int) -> None:
        node, held = self._room.nodes[number], self._room.held_on(number)
        offer: Claim | str = "its room is kept for another model"
        if not self._room.is_closed(number):
            offer = offer_of(self._demand, node, held, self.on_card, self._memory_fraction)
        self.offers[number] = offer
        if isinstance(offer, Claim):
            heapq.heappush(self._ranked, (rank_of(offer, node, held), number, self._changed[number]))

    def best(self, spread: Mapping[str, int]) -> int | None:
        """The number of the best node; of those with fewest workers of the model, whose `spread` over nodes this is."""
        passed: list[tuple[int, Ranked]] = []
        while self._ranked:
            first = self._ranked[0]
            _, number, changed = first
            if changed != self._changed[number]:
                heapq.heappop(self._ranked)
                continue
            siblings = spread.get(self._room.nodes[number].id, 0)
            passed.append((siblings, first))
            if not siblings:
                break
            heapq.heappop(self._ranked)
        for siblings, ranked in passed:
            if siblings:
                heapq.heappush(self._ranked, ranked)
        return min(passed)[1][1] if passed else None

    def reasons(self) -> tuple[tuple[str, str], ...]:
        """Why none of them gives anything, by their addresses."""
        if self._reasons is None:
            rows = zip(self._room.nodes, self.offers, strict=True)
            self._reasons = tuple((node.ip, offer) for node, offer in rows if isinstance(offer, str))
        return self._reasons
