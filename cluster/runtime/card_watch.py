"""Knows the cards of every node, and looks again and again how full they are; nobody waits for that."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import errors
from cluster.cards import Card
from cluster.runtime.actor_calls import answer_of
from cluster.runtime.node_cards import (
    CARDS_S,
    NO_CARDS,
    NO_DRIVER_S,
    READ_EVERY_S,
    READING_S,
    UNKNOWN_CARDS,
    NodeCards,
    cards_here,
    keep_cards,
    kept_cards,
    read_here,
    read_there,
)
from cluster.runtime.visible_cards import RESOURCES
from cluster.settings import Settings

log = logging.getLogger("cluster.card_watch")

Row = Mapping[str, Any]


def resource_of(row: Row) -> str:
    """By which name Ray counts the cards of a node; empty where it has none."""
    return next((name for name in RESOURCES if row["Resources"].get(name)), "")


class CardWatch:
    """Used from the supervisor's loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cards: dict[str, NodeCards] = {}
        #: What the driver of each node said last, and when; None where it says nothing.
        self._driver: dict[str, Sequence[Card] | None] = {}
        self._read_at: dict[str, float] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._reading: dict[str, asyncio.Task[None]] = {}

    async def look_at(self, rows: Sequence[Row]) -> None:
        """The first time it returns when all are known; a node that comes later is known a while after it came."""
        is_first = not self._cards
        for row in rows:
            node_id = row["NodeID"]
            if not resource_of(row):
                self._cards[node_id] = NO_CARDS
            elif node_id not in self._cards:
                self._begin(self._looking, node_id, self._look(node_id))
            elif time.monotonic() - self._read_at.get(node_id, float("-inf")) >= self._pause_s(node_id):
                self._begin(self._reading, node_id, self._read(node_id))
        if is_first:
            # A supervisor that comes back must see the nodes of the workers that run.
            await asyncio.gather(*self._looking.values())

    def of(self, node_id: str) -> NodeCards | None:
        """None as long as nobody knows."""
        return self._cards.get(node_id)

    def full(self, node_id: str) -> tuple[Card, ...]:
        """Each card of a node, and how full it was a moment ago."""
        return self._cards.get(node_id, UNKNOWN_CARDS).seen_by(self._driver.get(node_id))

    def _pause_s(self, node_id: str) -> float:
        return READ_EVERY_S if self._driver.get(node_id) is not None else NO_DRIVER_S

    def _begin(self, tasks: dict[str, asyncio.Task[None]], node_id: str, work: Coroutine[Any, Any, None]) -> None:
        if node_id in tasks:
            work.close()
            return
        tasks[node_id] = asyncio.ensure_future(work)
        tasks[node_id].add_done_callback(lambda done: tasks.pop(node_id, None))

    async def _look(self, node_id: str) -> None:
        where = NodeAffinitySchedulingStrategy(node_id, soft=False)
        try:
            cards = await asyncio.to_thread(kept_cards, node_id)
            if cards is None:
                cards = await answer_of(cards_here.options(scheduling_strategy=where).remote(), CARDS_S + 10)
                await asyncio.to_thread(keep_cards, node_id, cards)
        except errors.ClusterError as error:
            log.warning("the cards of node %s cannot be asked: %s", node_id, error)
            cards = UNKNOWN_CARDS
        await self._read(node_id)
        self._cards[node_id] = cards

    async def _read(self, node_id: str) -> None:
        """On this node by a thread of this process, elsewhere by a process that Ray keeps for such work."""
        try:
            if node_id == ray.get_runtime_context().get_node_id():
                async with asyncio.timeout(READING_S):
                    self._driver[node_id] = await asyncio.to_thread(read_here, self._settings)
            else:
                where = NodeAffinitySchedulingStrategy(node_id, soft=False)
                reading = read_there.options(scheduling_strategy=where).remote(self._settings)
                self._driver[node_id] = await answer_of(reading, READING_S)
        except (errors.ClusterError, TimeoutError) as error:
            log.warning("node %s does not say how full its cards are: %s", node_id, error)
            self._driver[node_id] = None
        self._read_at[node_id] = time.monotonic()
