"""Knows the cards of every node, and looks again and again how full they are; nobody waits for that."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from cluster import errors
from cluster.cards import Card
from cluster.runtime.node_cards import NO_CARDS, UNKNOWN_CARDS, NodeCards
from cluster.runtime.visible_cards import RESOURCES

log = logging.getLogger("cluster.card_watch")

#: How long until the driver of a node is asked again, and at most how long where there is none or it fails.
READ_EVERY_S, SELDOM_S = 3.0, 60.0
#: How long it may take to answer; longer until it has answered once, since the process that asks it has to start.
READING_S, FIRST_READING_S = 10.0, 30.0
#: How long its last answer counts when there is no other.
KEPT_S = 60.0

Row = Mapping[str, Any]


class Asking(Protocol):
    """A question to the driver of a node that has been asked."""

    async def answer(self, timeout_s: float) -> Sequence[Card] | None:
        """None where there is no driver; raises what it was lost by."""

    async def ended(self) -> None:
        """Ends it, and waits until it has ended."""


def resource_of(row: Row) -> str:
    """By which name Ray counts the cards of a node; empty where it has none."""
    return next((name for name in RESOURCES if row["Resources"].get(name)), "")


def pause_s(failures: int, *, has_driver: bool) -> float:
    """How long until a driver is asked again that has failed so often in a row."""
    if failures:
        return min(READ_EVERY_S * 2.0 ** min(failures - 1, 30), SELDOM_S)
    return READ_EVERY_S if has_driver else SELDOM_S


class CardWatch:
    """Used from the supervisor's loop."""

    def __init__(
        self,
        look: Callable[[str], Awaitable[NodeCards]],
        read: Callable[[str], Asking],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`look`: finds out which cards a node has. `read`: begins to ask its driver how full they are."""
        self._look_at = look
        self._read_of = read
        self._clock = clock
        self._cards: dict[str, NodeCards] = {}
        #: What each driver said last, None where there is none, until when that counts, and when it is asked again.
        self._driver: dict[str, Sequence[Card] | None] = {}
        self._counts_until: dict[str, float] = {}
        self._read_at: dict[str, float] = {}
        #: How often each has failed in a row.
        self._failures: dict[str, int] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._reading: dict[str, asyncio.Task[None]] = {}

    async def look_at(self, rows: Sequence[Row]) -> None:
        """The first time it returns when all are known; a node that comes later is known a while after it came."""
        is_first = not self._cards
        for row in rows:
            node_id = row["NodeID"]
            if not resource_of(row):
                self._cards[node_id] = NO_CARDS
                continue
            if node_id not in self._cards:
                self._begin(self._looking, node_id, self._look)
            if self._clock() >= self._read_at.get(node_id, 0.0):
                self._begin(self._reading, node_id, self._read)
        if is_first:
            # A supervisor that comes back must see the nodes of the workers that run; how full they are can wait.
            await asyncio.gather(*self._looking.values())

    def of(self, node_id: str) -> NodeCards | None:
        """None as long as nobody knows."""
        return self._cards.get(node_id)

    def is_unread(self, node_id: str) -> bool:
        """Whether its driver is still being asked for the first time; that it fails is an answer too."""
        return self.of(node_id) is not NO_CARDS and node_id not in self._driver and node_id not in self._failures

    def full(self, node_id: str) -> tuple[Card, ...]:
        """Each card of a node, and how full it was a moment ago."""
        counts = self._clock() < self._counts_until.get(node_id, 0.0)
        return self._cards.get(node_id, UNKNOWN_CARDS).seen_by(self._driver.get(node_id) if counts else None)

    def _begin(
        self, tasks: dict[str, asyncio.Task[None]], node_id: str, work: Callable[[str], Coroutine[Any, Any, None]]
    ) -> None:
        """Never a second one while the last has not ended."""
        if node_id not in tasks:
            tasks[node_id] = asyncio.ensure_future(work(node_id))
            tasks[node_id].add_done_callback(lambda done: tasks.pop(node_id, None))

    async def _look(self, node_id: str) -> None:
        try:
            self._cards[node_id] = await self._look_at(node_id)
        except errors.ClusterError as error:
            log.warning("the cards of node %s cannot be asked: %s", node_id, error)
            self._cards[node_id] = UNKNOWN_CARDS

    async def _read(self, node_id: str) -> None:
        asking: Asking | None = None
        try:
            asking = self._read_of(node_id)
            cards = await asking.answer(READING_S if node_id in self._driver else FIRST_READING_S)
        # Whatever it fails by, it may answer again later.
        except Exception as error:
            self._see_failure(node_id, error)
            if asking is not None:
                # What hangs in a driver may not end even when it is killed: as long as it is there, no other is begun.
                await asking.ended()
        else:
            self._see_answer(node_id, cards)
        finally:
            has_driver = self._driver.get(node_id) is not None
            self._read_at[node_id] = self._clock() + pause_s(self._failures.get(node_id, 0), has_driver=has_driver)

    def _see_failure(self, node_id: str, error: Exception) -> None:
        if node_id not in self._failures:
            log.warning("node %s does not say how full its cards are: %s", node_id, error)
        self._failures[node_id] = self._failures.get(node_id, 0) + 1

    def _see_answer(self, node_id: str, cards: Sequence[Card] | None) -> None:
        if self._failures.pop(node_id, 0):
            log.info("node %s says again how full its cards are", node_id)
        self._driver[node_id] = cards
        self._counts_until[node_id] = self._clock() + KEPT_S
