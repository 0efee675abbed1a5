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
    """Remembers whose the processes on each node were."""

    _of: dict[str, NodeUsers] = field(default_factory=dict)

    def shown(self, nodes: Iterable[Node], workers: Workers, now: float) -> dict[str, Node]:
        """All nodes there are, by their ids, with whose their cards are."""
        after = {node.id: node for node in nodes}
        self._of = {node: self._of.get(node, NodeUsers()) for node in after}
        return {
            node.id: replace(node, cards=self._of[node.id].attributed(node.cards, workers.on(node.id), now))
            if node.cards
            else node
            for node in after.values()
        }


@dataclass
class NodeUsers:
    """Remembers whose a process was, so that what a worker leaves behind for a moment is not taken for a stranger's."""

    #: By process: its worker, and since when that has not been there.
    _workers: dict[int, str] = field(default_factory=dict)
    _left: dict[int, float] = field(default_factory=dict)

    def attributed(self, cards: Sequence[Card], workers: Collection[WorkerRecord], now: float) -> tuple[Card, ...]:
        """The cards of the node, each process with its worker, and with what strangers have."""
        pids = {worker.report.pid: str(worker) for worker in workers if worker.report.pid}
        every = [replace(card, users=tuple(self._owned(user, pids, now) for user in card.users)) for card in cards]
        alive = {user.pid for card in every for user in card.users}
        self._workers = {pid: worker for pid, worker in self._workers.items() if pid in alive}
        self._left = {pid: since for pid, since in self._left.items() if pid in alive}
        return tuple(
            _with_foreign(card, _unseen_bytes(number, card, workers), self._ours(card, now))
            for number, card in enumerate(every)
        )

    def _owned(self, user: CardUser, pids: Mapping[int, str], now: float) -> CardUser:
        worker = next((pids[pid] for pid in (user.pid, *user.parents) if pid in pids), "")
        if worker:
            self._workers[user.pid] = worker
            self._left.pop(user.pid, None)
            return replace(user, worker=worker, is_ours=True)
        if user.is_ours or user.pid in self._workers:
            self._left.setdefault(user.pid, now)
            return replace(user, worker=self._workers.get(user.pid, ""), is_ours=True)
        return user

    def _ours(self, card: Card, now: float) -> frozenset[int]:
        """Processes of workers, also of those that are gone and whose memory is about to come free."""
        return frozenset(
            user.pid for user in card.users if user.is_ours and now - self._left.get(user.pid, now) < LEAVING_S
        )


def _unseen_bytes(number: int, card: Card, workers: Iterable[WorkerRecord]) -> int:
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
    # Such a number is of no process here: as far as workers may have that memory, it is theirs.
    hidden_bytes = sum(user.bytes or 0 for user in strangers if not user.name)
    workers_bytes = min(hidden_bytes, unseen_bytes)
    stranger_bytes = sum(user.bytes or 0 for user in strangers) - workers_bytes
    # So is memory of which the driver tells no process.
    nameless_bytes = card.used_bytes - sum(user.bytes or 0 for user in card.users) - (unseen_bytes - workers_bytes)
    if nameless_bytes > max(DRIVERS_PART * card.total_bytes, DRIVERS_LEAST):
        stranger_bytes += nameless_bytes
    if not stranger_bytes:
        return card
    named = [user for user in strangers if user.name or hidden_bytes >= unseen_bytes]
    words = [f"pid {user.pid}, {user.name or 'of another container or user'}" for user in named[:MOST_NAMED]]
    words += [f"{len(named) - MOST_NAMED} more"] if len(named) > MOST_NAMED else []
    return replace(card, foreign_bytes=stranger_bytes, foreign="; ".join(words) or "the driver does not say whose")
