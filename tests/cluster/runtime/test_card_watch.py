from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from cluster import errors
from cluster.cards import Card
from cluster.runtime.card_watch import FIRST_READING_S, KEPT_S, READ_EVERY_S, READING_S, SELDOM_S, CardWatch, pause_s
from cluster.runtime.node_cards import UNKNOWN_CARDS, NodeCards
from tests.make import GIB

ROW = {"NodeID": "n0", "Resources": {"GPU": 1.0}}
OF_TORCH = NodeCards(24 * GIB, (), "cuda", 1, (("X", "1", 24 * GIB),))
FULL = Card("X", "GPU-1", 24 * GIB, 20 * GIB)
#: Far more turns of the loop than anything here takes.
TURNS = 50


async def look(node_id: str) -> NodeCards:
    return OF_TORCH


async def turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


class Driver:
    """Of one node, with a clock. `says`: what it answers or raises; nothing as long as it hangs."""

    def __init__(self) -> None:
        self.says: Sequence[Card] | Exception | None = (FULL,)
        self.hangs = False
        #: Whether it can be asked at all.
        self.can_be_asked = True
        #: Cleared as long as it neither answers nor fails.
        self.speaks = asyncio.Event()
        self.speaks.set()
        #: How long it was given to answer, each time.
        self.given_s: list[float] = []
        self.now = 1000.0
        #: Processes that ask it, all together, and those that have not ended.
        self.begun = self.left = 0
        self.may_end = asyncio.Event()

    def __call__(self, node_id: str) -> Driver:
        self.begun += 1
        if not self.can_be_asked:
            raise ValueError("There is no such node.")
        self.left += 1
        return self

    def watch(self, look: Callable[[str], Awaitable[NodeCards]] = look) -> CardWatch:
        return CardWatch(look, self, lambda: self.now)

    async def tick(self, watch: CardWatch, after_s: float = READ_EVERY_S) -> None:
        self.now += after_s
        await watch.look_at([ROW])
        await turns()

    async def answer(self, timeout_s: float) -> Sequence[Card] | None:
        self.given_s.append(timeout_s)
        await self.speaks.wait()
        if self.hangs:
            raise errors.Unavailable("It does not answer.")
        self.left -= 1
        if isinstance(self.says, Exception):
            raise self.says
        return self.says

    async def ended(self) -> None:
        if self.hangs:
            await self.may_end.wait()
            self.left -= 1


def test_a_driver_that_hangs_is_asked_by_one_process_until_that_is_gone() -> None:
    async def scene() -> None:
        driver = Driver()
        watch = driver.watch()
        driver.hangs = True
        for _ in range(3):
            await driver.tick(watch, SELDOM_S)
        assert (driver.begun, driver.left) == (1, 1)
        # The node can be used all the same.
        assert watch.of("n0") == OF_TORCH and watch.full("n0")[0].used_bytes is None
        driver.hangs = False
        driver.may_end.set()
        await turns()
        await driver.tick(watch)
        assert watch.full("n0")[0].used_bytes == 20 * GIB and driver.left == 0

    asyncio.run(scene())


def test_what_was_read_counts_for_a_while_when_a_reading_fails() -> None:
    async def scene() -> None:
        driver = Driver()
        watch = driver.watch()
        await driver.tick(watch)
        driver.says = errors.WorkerLost("The process is gone.")
        await driver.tick(watch)
        assert driver.begun == 2
        assert watch.full("n0")[0].used_bytes == 20 * GIB
        await driver.tick(watch, KEPT_S - READ_EVERY_S)
        assert watch.full("n0")[0].used_bytes is None, "what is older than that says nothing"

    asyncio.run(scene())


def test_a_driver_is_asked_again_every_few_seconds_and_a_machine_without_one_seldom() -> None:
    async def scene() -> None:
        driver = Driver()
        watch = driver.watch()
        for _ in range(3):
            await driver.tick(watch)
        assert driver.begun == 3
        driver.says = None
        for _ in range(3):
            await driver.tick(watch)
        assert driver.begun == 4

    asyncio.run(scene())


def test_a_driver_that_fails_is_asked_later_each_time() -> None:
    assert [pause_s(failures, has_driver=True) for failures in range(8)] == [3, 3, 6, 12, 24, 48, 60, 60]
    assert pause_s(10**6, has_driver=False) == 60

    async def scene() -> None:
        driver = Driver()
        watch = driver.watch()
        driver.says = errors.WorkerLost("The process is gone.")
        asked_at = list[float]()
        for second in range(60):
            begun = driver.begun
            await driver.tick(watch, 1.0)
            if driver.begun > begun:
                asked_at.append(second)
        assert asked_at == [0, 3, 9, 21, 45]
        driver.says = (FULL,)
        await driver.tick(watch, SELDOM_S)
        begun = driver.begun
        driver.says = errors.WorkerLost("The process is gone.")
        await driver.tick(watch)
        await driver.tick(watch)
        assert driver.begun == begun + 2, "an answer ends the spell"

    asyncio.run(scene())


def test_a_spell_of_failures_is_told_once_and_its_end_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        driver = Driver()
        watch = driver.watch()
        driver.says = errors.WorkerLost("The process is gone.")
        for _ in range(4):
            await driver.tick(watch, SELDOM_S)
        driver.says = (FULL,)
        for _ in range(2):
            await driver.tick(watch, SELDOM_S)

    with caplog.at_level(logging.INFO, "cluster.card_watch"):
        asyncio.run(scene())
    assert [record.getMessage() for record in caplog.records] == [
        "node n0 does not say how full its cards are: The process is gone.",
        "node n0 says again how full its cards are",
    ]


@pytest.mark.parametrize("can_be_asked", [True, False])
def test_an_error_that_nobody_thought_of_does_not_hide_a_node(can_be_asked: bool) -> None:
    async def scene() -> None:
        stray = list[object]()
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: stray.append(context))
        driver = Driver()
        watch = driver.watch()
        driver.can_be_asked = can_be_asked
        driver.says = RuntimeError("no words")
        for _ in range(2):
            await driver.tick(watch, 1.0)
        assert driver.begun == 1, "it is left alone for a while"
        assert watch.of("n0") == OF_TORCH
        driver.can_be_asked = True
        driver.says = (FULL,)
        await driver.tick(watch)
        assert watch.full("n0")[0].used_bytes == 20 * GIB
        gc.collect()
        assert not stray

    asyncio.run(scene())


def test_a_driver_has_more_time_until_it_has_answered_once() -> None:
    async def scene() -> None:
        driver = Driver()
        watch = driver.watch()
        driver.says = errors.Unavailable("It does not answer.")
        await driver.tick(watch)
        driver.says = (FULL,)
        await driver.tick(watch)
        await driver.tick(watch)
        assert driver.given_s == [FIRST_READING_S, FIRST_READING_S, READING_S]

    asyncio.run(scene())


UNUSUAL = {"no driver": None, "failed": errors.Unavailable("It does not answer."), "broke": RuntimeError("no words")}


@pytest.mark.parametrize("says", [(FULL,), *UNUSUAL.values()], ids=["answered", *UNUSUAL])
def test_a_node_is_unread_until_its_first_reading_has_ended_in_whatever_way(says: Any) -> None:
    async def scene() -> None:
        driver = Driver()
        watch = driver.watch()
        driver.says = says
        driver.speaks.clear()
        await watch.look_at([ROW, {"NodeID": "plain", "Resources": {}}])
        await turns()
        assert watch.of("n0") == OF_TORCH and watch.is_unread("n0")
        assert not watch.is_unread("plain"), "it has no cards"
        assert driver.given_s == [FIRST_READING_S], "it is not unread for longer"
        driver.speaks.set()
        await turns()
        assert not watch.is_unread("n0")
        # The next one is under way.
        driver.speaks.clear()
        await driver.tick(watch, SELDOM_S)
        assert driver.begun == 2 and not watch.is_unread("n0")

    asyncio.run(scene())


def test_a_process_that_does_not_end_keeps_no_node_unread() -> None:
    async def scene() -> None:
        driver = Driver()
        watch = driver.watch()
        driver.hangs = True
        await driver.tick(watch)
        assert driver.left == 1 and not watch.is_unread("n0")

    asyncio.run(scene())


def test_a_driver_that_cannot_be_asked_keeps_no_node_unread() -> None:
    async def scene() -> None:
        driver = Driver()
        watch = driver.watch()
        driver.can_be_asked = False
        await driver.tick(watch)
        assert not watch.is_unread("n0")

    asyncio.run(scene())


def test_the_first_look_waits_for_which_cards_there_are_and_not_for_how_full() -> None:
    async def scene() -> None:
        driver, may_answer = Driver(), asyncio.Event()
        driver.hangs = True

        async def slow(node_id: str) -> NodeCards:
            await may_answer.wait()
            raise errors.Unavailable("It does not answer.")

        watch = driver.watch(slow)
        first = asyncio.ensure_future(watch.look_at([ROW, {"NodeID": "plain", "Resources": {}}]))
        await turns()
        assert not first.done() and watch.of("n0") is None
        may_answer.set()
        await asyncio.wait_for(first, 5)
        assert watch.of("n0") == UNKNOWN_CARDS and driver.left == 1

    asyncio.run(scene())
