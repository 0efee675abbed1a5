from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cluster import errors
from cluster.worker.family import Progress
from cluster.worker.owners import REMEMBERED
from cluster.worker.stepping import SteppedQueue


class Easel:
    """Paints strokes, and stops between two of them where a test tells it to."""

    def __init__(self) -> None:
        self.strokes: list[str] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def paint(self, value: Any, course: Progress) -> str:
        name, steps = value
        for step in range(steps):
            course.check()
            self.strokes.append(name)
            course.tell((step + 1) / steps, "painting", step + 1, steps)
            self.may_go_on.wait(10)
            time.sleep(0.001)
        if name == "bad":
            raise ValueError("no such colour")
        course.show(name.encode())
        return f"{name} painted"


def with_jobs(test: Callable[[SteppedQueue, Easel], Any], parallel: int = 1, speed: float | None = None) -> None:
    async def run() -> None:
        easel = Easel()
        with ThreadPoolExecutor(parallel) as threads:
            jobs = SteppedQueue(easel.paint, threads, parallel=parallel, speed=speed)
            try:
                await test(jobs, easel)
            finally:
                easel.may_go_on.set()
        assert jobs.running == 0 and jobs.waiting == 0

    asyncio.run(asyncio.wait_for(run(), 20))


def test_values_of_a_request_are_answered_together_and_in_order() -> None:
    async def test(jobs: SteppedQueue, easel: Easel) -> None:
        job = jobs.submit([("a", 3), ("b", 1)], [3, 1], owner="r#1", seconds_left=10)
        assert await job.done == ["a painted", "b painted"]

    with_jobs(test, parallel=2)


def test_whoever_has_least_to_do_goes_first_and_every_fourth_turn_the_oldest() -> None:
    async def test(jobs: SteppedQueue, easel: Easel) -> None:
        easel.may_go_on.clear()
        sizes = {"running": 1, "large": 9, "a": 1, "b": 2, "c": 3, "d": 4}
        asked = [jobs.submit([(name, size)], [size], owner=name, seconds_left=10).done for name, size in sizes.items()]
        easel.may_go_on.set()
        await asyncio.gather(*asked)
        assert list(dict.fromkeys(easel.strokes)) == ["running", "a", "b", "large", "c", "d"]

    with_jobs(test)


def test_a_request_that_fails_fails_alone() -> None:
    async def test(jobs: SteppedQueue, easel: Easel) -> None:
        bad = jobs.submit([("bad", 1), ("more", 500)], [1, 500], owner="bad", seconds_left=10)
        good = jobs.submit([("good", 5)], [5], owner="good", seconds_left=10)
        with pytest.raises(errors.InferenceFailed, match="ValueError: no such colour"):
            await bad.done
        assert await good.done == ["good painted"]

    with_jobs(test, parallel=3)


@pytest.mark.parametrize("way", ["cancel", "leave"])
def test_what_nobody_waits_for_stops_at_its_next_step(way: str) -> None:
    async def test(jobs: SteppedQueue, easel: Easel) -> None:
        job = jobs.submit([("a", 1000)], [1000], owner="r#1", seconds_left=10)
        while len(easel.strokes) < 5:
            await asyncio.sleep(0)
        if way == "cancel":
            assert jobs.cancel("r")
            with pytest.raises(errors.RequestCancelled):
                await job.done
        else:
            job.done.cancel()
            await asyncio.sleep(0)
        then = len(easel.strokes)
        while jobs.running:
            await asyncio.sleep(0.001)
        assert len(easel.strokes) <= then + 1
        view = await jobs.watch("r", -1, 0)
        assert view is not None and view.state == "cancelled"

    with_jobs(test)


def test_what_waits_is_never_begun_once_cancelled() -> None:
    async def test(jobs: SteppedQueue, easel: Easel) -> None:
        easel.may_go_on.clear()
        first = jobs.submit([("a", 1)], [1], owner="a", seconds_left=10)
        second = jobs.submit([("b", 1)], [1], owner="b", seconds_left=10)
        jobs.cancel("b")
        with pytest.raises(errors.RequestCancelled):
            await second.done
        easel.may_go_on.set()
        await first.done
        assert easel.strokes == ["a"]

    with_jobs(test)


def test_an_aborted_id_is_refused_for_a_while() -> None:
    async def test(jobs: SteppedQueue, easel: Easel) -> None:
        assert not jobs.cancel("r", block_s=0.05)
        with pytest.raises(errors.RequestCancelled, match="refused"):
            jobs.submit([("a", 1)], [1], owner="r#1", seconds_left=10)
        await asyncio.sleep(0.06)
        assert await jobs.submit([("a", 1)], [1], owner="r#2", seconds_left=10).done == ["a painted"]

    with_jobs(test)


def test_ids_that_are_refused_are_not_kept_without_end() -> None:
    async def test(jobs: SteppedQueue, easel: Easel) -> None:
        for number in range(3 * REMEMBERED):
            jobs.cancel(f"r{number}", block_s=3600)
        assert await jobs.submit([("a", 1)], [1], owner="r0#1", seconds_left=10).done == ["a painted"]
        with pytest.raises(errors.RequestCancelled, match="refused"):
            jobs.submit([("a", 1)], [1], owner=f"r{3 * REMEMBERED - 1}#1", seconds_left=10)

    with_jobs(test)


def test_a_request_ends_when_its_time_is_up() -> None:
    async def test(jobs: SteppedQueue, easel: Easel) -> None:
        with pytest.raises(errors.DeadlineExceeded):
            await jobs.submit([("a", 5000)], [1], owner="a", seconds_left=0.05).done
        while jobs.running:
            await asyncio.sleep(0.001)

    with_jobs(test)


def test_what_cannot_end_in_time_is_refused_at_once() -> None:
    async def test(jobs: SteppedQueue, easel: Easel) -> None:
        with pytest.raises(errors.DeadlineExceeded, match="about 20 s"):
            jobs.submit([("a", 1)], [200], owner="a", seconds_left=10)
        easel.may_go_on.clear()
        busy = jobs.submit([("b", 1)], [60], owner="b", seconds_left=10)
        with pytest.raises(errors.Overloaded) as refused:
            jobs.submit([("c", 1)], [60], owner="c", seconds_left=10)
        assert refused.value.retry_after_s == pytest.approx(2, abs=0.1)
        # A small request is done long before, as the large one delays it by no more than its own work.
        small = jobs.submit([("d", 1)], [10], owner="d", seconds_left=10)
        easel.may_go_on.set()
        await asyncio.gather(busy.done, small.done)

    with_jobs(test, speed=10.0)


def test_how_far_a_request_is_can_be_followed_to_its_end() -> None:
    async def test(jobs: SteppedQueue, easel: Easel) -> None:
        job = jobs.submit([("a", 40)], [40], owner="r#1", seconds_left=10)
        seen, views = -1, []
        while (view := await jobs.watch("r", seen, 5)) is not None:
            views.append(view)
            seen = view.version
            if view.state == "done":
                break
        await job.done
        fractions = [view.fraction for view in views]
        assert fractions == sorted(fractions) and fractions[-1] == 1.0 and len(set(fractions)) > 3
        assert {view.state for view in views} >= {"running", "done"}
        assert any(view.steps == 40 for view in views)
        assert await jobs.watch("unknown", -1, 0) is None

    with_jobs(test)


def test_the_speed_is_measured_and_tells_when_a_request_will_end() -> None:
    async def test(jobs: SteppedQueue, easel: Easel) -> None:
        await jobs.submit([("a", 20)], [20], owner="a", seconds_left=10).done
        assert jobs.speed is not None and 0 < jobs.speed < 20_000
        easel.may_go_on.clear()
        job = jobs.submit([("b", 20)], [20 * jobs.speed], owner="b", seconds_left=60)
        await asyncio.sleep(0.01)
        view = await jobs.watch("b", -1, 0)
        assert view is not None and view.eta_s == pytest.approx(19, abs=1.1)
        easel.may_go_on.set()
        await job.done

    with_jobs(test)


def test_values_that_end_together_do_not_look_like_work_done_in_a_moment() -> None:
    async def test(jobs: SteppedQueue, easel: Easel) -> None:
        started = time.monotonic()
        await jobs.submit([("a", 30), ("b", 30)], [30, 30], owner="r", seconds_left=10).done
        true = 60 / (time.monotonic() - started)
        assert jobs.speed is not None and true / 2 < jobs.speed < true * 2

    with_jobs(test, parallel=2)
