"""Whose the memory of a card is: a worker's, or that of processes that this cluster knows nothing of. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cluster.cards import Card, CardUser
from cluster.control.lifecycle import HOLDS_CLAIM, WorkerRecord
from cluster.control.workers import Workers
from cluster.status import Node

#: How long the memory of a worker that has ended may take to come free, before it counts as somebody else's.
LEAVING_S = 30.0
#: What a driver takes of a card for itself, without a process: nobody's.
DRIVERS_PART, DRIVERS_LEAST = 0.02, 300 * 10**6
#: So many others are named.
MOST_NAMED = 2


@dataclass
class CardUsers:
    """Remembers whose a process was, so that what a worker leaves behind for a moment is not taken for a stranger's."""

    #: By node and process: its worker, and since when that has not been there.
    _workers: dict[tuple[str, int], str] = field(default_factory=dict)
    _left: dict[tuple[str, int], float] = field(default_factory=dict)

    def shown_on(self, node: Node, workers: Workers, now: float) -> Node:
        """The node with whose its cards are."""
        if not node.cards:
            return node
        return replace(node, cards=self.attributed(node.id, node.cards, workers.on(node.id), now))

    def attributed(
        self, node: str, cards: Sequence[Card], workers: Collection[WorkerRecord], now: float
    ) -> tuple[Card, ...]:
        """The cards of a node, each process with its worker, and with what strangers have."""
        pids = {worker.report.pid: str(worker) for worker in workers if worker.report.pid}
        every = [
            replace(card, users=tuple(self._owned(node, user, pids, now) for user in card.users)) for card in cards
        ]
        alive = {user.pid for card in every for user in card.users}
        for key in [key for key in self._workers.keys() | self._left.keys() if key[0] == node and key[1] not in alive]:
            self._workers.pop(key, None)
            self._left.pop(key, None)
        return tuple(
            _with_foreign(card, _unseen_claims(number, card, workers), self._leaving(node, card, now))
            for number, card in enumerate(every)
        )

    def _owned(self, node: str, user: CardUser, pids: Mapping[int, str], now: float) -> CardUser:
        key = (node, user.pid)
        worker = next((pids[pid] for pid in (user.pid, *user.parents) if pid in pids), "")
        if worker:
            self._workers[key] = worker
            self._left.pop(key, None)
            return replace(user, worker=worker, is_ours=True)
        if user.is_ours or key in self._workers:
            self._left.setdefault(key, now)
            return replace(user, worker=self._workers.get(key, ""), is_ours=True)
        return user

    def _leaving(self, node: str, card: Card, now: float) -> frozenset[int]:
        """Processes of workers that are gone, whose memory is about to come free."""
        return frozenset(
            user.pid for user in card.users if now - self._left.get((node, user.pid), float("-inf")) < LEAVING_S
        ) | frozenset(user.pid for user in card.users if user.worker and (node, user.pid) not in self._left)


def _unseen_claims(number: int, card: Card, workers: Iterable[WorkerRecord]) -> int:
    """What those workers may have of the card whose processes the driver does not show: in a container it shows other
    process numbers, or none."""
    visible = {user.worker for user in card.users if user.bytes is not None}
    shares = [
        share
        for worker in workers
        if worker.state in HOLDS_CLAIM and str(worker) not in visible
        for claimed, share in worker.claim.cards
        if claimed == number
    ]
    return int(sum(shares) * (card.total_bytes or 0))


def _with_foreign(card: Card, unseen_bytes: int, ours: frozenset[int]) -> Card:
    if card.used_bytes is None or not card.total_bytes:
        return card
    strangers = sorted((u for u in card.users if u.pid not in ours), key=lambda user: -(user.bytes or 0))
    seen_bytes = sum(user.bytes or 0 for user in card.users)
    stranger_bytes = sum(user.bytes or 0 for user in strangers)
    # Memory whose process the driver does not tell is a worker's as far as workers may have it.
    nameless_bytes = card.used_bytes - seen_bytes - unseen_bytes
    if nameless_bytes > max(DRIVERS_PART * card.total_bytes, DRIVERS_LEAST):
        stranger_bytes += nameless_bytes
    if not stranger_bytes:
        return card
    named = [f"pid {user.pid}, {user.name or 'of another container or user'}" for user in strangers[:MOST_NAMED]]
    named += [f"{len(strangers) - MOST_NAMED} more"] if len(strangers) > MOST_NAMED else []
    return replace(card, foreign_bytes=stranger_bytes, foreign="; ".join(named) or "the driver does not say whose")
