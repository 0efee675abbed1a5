"""What workers hold of their nodes, as running totals: a look at a node adds nothing up. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cluster.status import Claim

#: Totals are rounded, so that shares which are added and taken away for years do not drift.
DIGITS = 6


@dataclass(frozen=True)
class Taken:
    """What one worker holds."""

    uid: str
    node: str
    claim: Claim


@dataclass(frozen=True)
class Held:
    """What all workers of one node hold together."""

    memory_bytes: int = 0
    cpus: float = 0.0
    #: Card number -> share of it.
    cards: Mapping[int, float] = field(default_factory=dict)

    def plus(self, claim: Claim) -> Held:
        return self._changed(claim, 1)

    def minus(self, claim: Claim) -> Held:
        return self._changed(claim, -1)

    def free_share(self, card: int) -> float:
        return round(1.0 - self.cards.get(card, 0.0), DIGITS)

    def _changed(self, claim: Claim, sign: int) -> Held:
        cards = dict(self.cards)
        for card, share in claim.cards:
            cards[card] = round(cards.get(card, 0.0) + sign * share, DIGITS)
        cpus = round(self.cpus + sign * claim.cpus, DIGITS)
        return Held(self.memory_bytes + sign * claim.memory_bytes, cpus, cards)


NOTHING = Held()


def totals(taken: Iterable[Taken]) -> dict[str, Held]:
    held: dict[str, Held] = {}
    for item in taken:
        held[item.node] = held.get(item.node, NOTHING).plus(item.claim)
    return held
