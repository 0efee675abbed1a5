from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cluster.status import Load
from cluster.worker import load
from cluster.worker.load import Backlog, LoadMeter, is_news


class Board:
    """What a meter has told, and the queue that it looks at."""

    def __init__(self) -> None:
        self.backlog = Backlog()
        self.requests = 0
        self.looks = 0
        self.told: list[dict[str, Any]] = []
        self.meter = LoadMeter(self.look, lambda: self.requests, lambda **fields: self.told.append(fields))

    def look(self) -> Backlog:
        self.looks += 1
        return self.backlog

    def second(self) -> None:
        """Ten looks, without waiting for the clock."""
        for _ in range(load.LOOKS):
            assert self.meter._timer is not None
            self.meter._timer.cancel()
            self.meter._again()


def measured(backlog: Backlog, requests: int = 1, seconds: int = 1) -> list[dict[str, Any]]:
    async def scene() -> list[dict[str, Any]]:
        board = Board()
        board.meter.see_idleness(False, 1)
        board.backlog, board.requests = backlog, requests
        for _ in range(seconds):
            board.second()
        board.meter.see_idleness(True, 1)
        return board.told

    return asyncio.run(scene())


def test_a_steady_load_is_told_once_and_its_end_at_once() -> None:
    told = measured(Backlog(waiting=36, running=4, speed=40, taken=1.0), 40, seconds=30)
    assert told[0] == {"is_idle": False, "spells": 1, "load": Load()}
    first = told[1]["load"]
    assert (first.waiting_s, first.running_s, first.requests) == pytest.approx((0.9, 0.1, 40))
    # Only how much of it is used comes slowly.
    assert {round(fields["load"].waiting_s, 6) for fields in told[1:-1]} == {0.9}
    assert len(told) < 12
    assert told[-1] == {"is_idle": True, "spells": 1, "load": Load()}


def test_an_idle_worker_is_not_looked_at() -> None:
    async def scene() -> None:
        board = Board()
        board.meter.see_idleness(False, 1)
        board.second()
        board.meter.see_idleness(True, 1)
        looks = board.looks
        await asyncio.sleep(3 * load.LOOK_S)
        assert board.looks == looks

    asyncio.run(scene())


def test_before_its_speed_is_known_the_wait_of_the_oldest_request_counts() -> None:
    told = measured(Backlog(waiting=1000, running=500, oldest_s=7.0, taken=1.0), 3)
    assert told[1]["load"].waiting_s == pytest.approx(7.0)


def test_one_that_was_faster_with_more_at_once_is_not_used_entirely() -> None:
    async def scene() -> None:
        board = Board()
        board.meter.see_idleness(False, 1)
        board.backlog, board.requests = Backlog(running=4, speed=40), 4
        for _ in range(30):
            board.second()
        board.backlog, board.requests = Backlog(running=1, speed=10), 1
        for _ in range(30):
            board.second()
        board.meter.see_idleness(True, 1)
        used = [fields["load"].used for fields in board.told]
        assert max(used) > 0.85
        assert used[-2] == pytest.approx(0.25, abs=0.12)

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("after", "is_told"),
    [
        (Load(1.0, 0.1, 10, 0.5), False),
        (Load(1.15, 0.11, 11, 0.55), False),
        (Load(1.3, 0.1, 10, 0.5), True),
        (Load(1.0, 0.1, 14, 0.5), True),
        (Load(1.0, 0.1, 10, 0.65), True),
        (Load(1.0, 0.1, 10, 0.5, refuses=True), True),
        (Load(), True),
    ],
)
def test_only_what_differs_much_is_news(after: Load, is_told: bool) -> None:
    assert is_news(Load(1.0, 0.1, 10, 0.5), after) == is_told
    assert is_news(after, Load(1.0, 0.1, 10, 0.5)) == is_told
