from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from cluster import errors
from cluster.spec import Answer, Call
from deployments.ingress.dispatch import FULL_S, LONG, Gate


class Worker:
    """At the other end of the line: refuses what is longer than it takes, and counts what it was asked."""

    def __init__(self, takes: int) -> None:
        self.takes = takes
        self.asked: list[int] = []

    async def infer(self, calls: Sequence[Call], timeout_s: float) -> tuple[list[Any], int]:
        sizes = [len(call.items[0]) for call in calls]
        self.asked += sizes
        full = errors.Overloaded("The queue is full.", 3.0)
        return [Answer([size], size) if size <= self.takes else full for size in sizes], len(calls)


def play(takes: int, scene: Callable[[Gate, Worker], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        worker = Worker(takes)
        await scene(Gate(worker, 0.001, lambda requests: None), worker)

    asyncio.run(whole())


async def send(gate: Gate, size: int) -> Any:
    """What `Dispatcher` does with a gate."""
    gate.refuse(size)
    return await gate.send(Call(f"r{size}", ["x" * size], {}, 5.0, "embed"))


def test_a_worker_that_is_full_is_not_asked_again_at_once() -> None:
    async def scene(gate: Gate, worker: Worker) -> None:
        for _ in range(5):
            with pytest.raises(errors.Overloaded) as caught:
                await send(gate, 100)
            assert caught.value.retry_after_s == 3.0
        assert worker.asked == [100]

    play(10, scene)


def test_what_is_smaller_than_what_was_refused_is_still_sent() -> None:
    async def scene(gate: Gate, worker: Worker) -> None:
        with pytest.raises(errors.Overloaded):
            await send(gate, 100)
        assert (await send(gate, 10)).outputs == [10]
        assert worker.asked == [100, 10]

    play(10, scene)


def test_a_worker_is_asked_again_soon() -> None:
    async def scene(gate: Gate, worker: Worker) -> None:
        with pytest.raises(errors.Overloaded):
            await send(gate, 100)
        worker.takes = 1000
        await asyncio.sleep(FULL_S * 1.1)
        assert (await send(gate, 100)).outputs == [100]

    play(10, scene)


def test_being_refused_here_does_not_make_the_worker_full_for_longer() -> None:
    async def scene(gate: Gate, worker: Worker) -> None:
        with pytest.raises(errors.Overloaded):
            await send(gate, 100)
        worker.takes = 1000
        for _ in range(4):
            await asyncio.sleep(FULL_S * 0.3)
            try:
                await send(gate, 100)
            except errors.Overloaded:
                continue
        assert worker.asked == [100, 100]

    play(10, scene)


def test_a_short_question_is_not_answered_with_the_long_request_it_came_with() -> None:
    async def scene() -> None:
        long_is_done = asyncio.Event()

        class Slow(Worker):
            async def infer(self, calls: Sequence[Call], timeout_s: float) -> tuple[list[Any], int]:
                if any(len(call.items[0]) > LONG for call in calls):
                    await long_is_done.wait()
                return await super().infer(calls, timeout_s)

        gate = Gate(Slow(10**6), 0.001, lambda requests: None)
        long = asyncio.ensure_future(send(gate, LONG + 1))
        short = [asyncio.ensure_future(send(gate, size)) for size in (10, 11)]
        async with asyncio.timeout(5):
            assert [answer.outputs for answer in await asyncio.gather(*short)] == [[10], [11]]
        assert not long.done()
        long_is_done.set()
        assert (await long).outputs == [LONG + 1]

    asyncio.run(scene())
