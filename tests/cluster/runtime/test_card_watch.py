from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from cluster import errors
from cluster.cards import Card
from cluster.runtime import card_watch
from cluster.runtime.card_watch import CardWatch
from cluster.runtime.node_cards import UNKNOWN_CARDS, NodeCards
from tests.make import GIB

ROW = {"NodeID": "n0", "Resources": {"GPU": 1.0}}
OF_TORCH = NodeCards(24 * GIB, (), "cuda", 1, (("X", "1", 24 * GIB),))
FULL = Card("X", "GPU-1", 24 * GIB, 20 * GIB)
#: Far more turns of the loop than anything here takes.
TURNS = 50


class Driver:
    """Of one node. `says`: what it answers or raises; nothing as long as it hangs."""

    def __init__(self) -> None:
        self.says: Sequence[Card] | Exception | None = (FULL,)
        self.hangs = False
        #: Processes that ask it, all together, and those that have not ended.
        self.begun = self.left = 0
        self.may_end = asyncio.Event()

    def __call__(self, node_id: str) -> Driver:
        self.begun += 1
        self.left += 1
        return self

    async def answer(self, timeout_s: float) -> Sequence[Card] | None:
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


async def look(node_id: str) -> NodeCards:
    return OF_TORCH


async def tick(watch: CardWatch, times: int = 3) -> None:
    for _ in range(times):
        await watch.look_at([ROW])
        for _ in range(TURNS):
            await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_watch, "READ_EVERY_S", 0.0)


def test_a_driver_that_hangs_is_asked_by_one_process_until_that_is_gone() -> None:
    async def scene() -> None:
        driver = Driver()
        watch = CardWatch(look, driver)
        driver.hangs = True
        await tick(watch)
        assert (driver.begun, driver.left) == (1, 1)
        # The node can be used all the same.
        assert watch.of("n0") == OF_TORCH and watch.full("n0")[0].used_bytes is None
        driver.hangs = False
        driver.may_end.set()
        await tick(watch)
        assert watch.full("n0")[0].used_bytes == 20 * GIB and driver.left == 0

    asyncio.run(scene())


def test_what_was_read_counts_for_a_while_when_a_reading_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        driver = Driver()
        watch = CardWatch(look, driver)
        await tick(watch)
        driver.says = errors.WorkerLost("The process is gone.")
        begun = driver.begun
        await tick(watch)
        assert driver.begun > begun + 1, "it is asked again soon"
        assert watch.full("n0")[0].used_bytes == 20 * GIB
        monkeypatch.setattr(card_watch, "KEPT_S", -1.0)
        driver.says = (FULL,)
        await tick(watch)
        assert watch.full("n0")[0].used_bytes is None, "what is older than that says nothing"

    asyncio.run(scene())


def test_a_machine_without_a_driver_is_asked_seldom() -> None:
    async def scene() -> None:
        driver = Driver()
        watch = CardWatch(look, driver)
        driver.says = None
        await tick(watch)
        assert driver.begun == 1

    asyncio.run(scene())


def test_an_error_that_nobody_thought_of_does_not_hide_a_node() -> None:
    async def scene() -> None:
        driver = Driver()
        watch = CardWatch(look, driver)
        driver.says = RuntimeError("no words")
        await tick(watch)
        assert watch.of("n0") == OF_TORCH
        driver.says = (FULL,)
        await tick(watch)
        assert watch.full("n0")[0].used_bytes == 20 * GIB

    asyncio.run(scene())


def test_the_first_look_waits_for_which_cards_there_are_and_not_for_how_full() -> None:
    async def scene() -> None:
        driver, may_answer = Driver(), asyncio.Event()
        driver.hangs = True

        async def slow(node_id: str) -> NodeCards:
            await may_answer.wait()
            raise errors.Unavailable("It does not answer.")

        watch = CardWatch(slow, driver)
        first = asyncio.ensure_future(watch.look_at([ROW, {"NodeID": "plain", "Resources": {}}]))
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert not first.done() and watch.of("n0") is None
        may_answer.set()
        await asyncio.wait_for(first, 5)
        assert watch.of("n0") == UNKNOWN_CARDS and driver.left == 1

    asyncio.run(scene())
