"""Batches that fail, hang or take too long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from cluster import errors
from cluster.worker import batching
from cluster.worker.batching import patience_s
from tests.cluster.worker.queues import PATIENCE_S, Model, Queue, play, refuses


@pytest.mark.parametrize("bad", range(1, 9))
def test_an_input_that_fails_fails_alone(bad: int) -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        tickets = {n: queue.submit(n, owner=str(n)) for n in range(1, 9)}
        found = {n: await queue.answer(ticket) for n, ticket in tickets.items()}
        assert isinstance(found.pop(bad), errors.InferenceFailed)
        assert found == {n: [n * 2] for n in range(1, 9) if n != bad}
        # The batch is halved again and again: 8, 4, 2, 1, and each other half.
        assert len(queue.model.batches) == 7

    play(scene, Model(refuses(bad)))


def test_a_caller_with_one_bad_input_fails_whole() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        mixed, good = queue.submit(1, 13, 2, owner="a"), queue.submit(3, 4, owner="b")
        assert isinstance(await queue.answer(mixed), errors.InferenceFailed)
        assert await queue.answer(good) == [6, 8]

    play(scene, Model(refuses(13)))


def test_our_own_errors_reach_the_caller_as_they_are() -> None:
    async def scene(queue: Queue) -> None:
        found = await queue.answer(queue.submit(13))
        assert type(found) is errors.InputTooLong and found.message == "Too long."

    play(scene, Model(refuses(13, error=errors.InputTooLong("Too long."))))


def test_an_error_of_the_model_is_told_with_its_type() -> None:
    async def scene(queue: Queue) -> None:
        found = await queue.answer(queue.submit(13))
        assert type(found) is errors.InferenceFailed and found.message == "ValueError: cannot do (13,)"

    play(scene, Model(refuses(13)))


@pytest.mark.parametrize(
    "outputs",
    [
        pytest.param([], id="none"),
        pytest.param([1], id="too few"),
        pytest.param([1, 2, 3], id="too many"),
        pytest.param(None, id="nothing at all"),
    ],
)
def test_a_wrong_number_of_answers_is_a_failure(outputs: Any) -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        tickets = [queue.submit(1, 2, owner="a")]
        assert isinstance(await queue.answer(tickets[0]), errors.InferenceFailed)

    play(scene, Model(lambda batch: outputs if len(batch) == 2 else []))


def raises(error: BaseException) -> Callable[[Sequence[Any]], Sequence[Any]]:
    def run(batch: Sequence[Any]) -> Sequence[Any]:
        raise error

    return run


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"),
        RuntimeError("CUDA out of memory"),
        MemoryError(),
        KeyError(),
        errors.InferenceFailed("bad"),
        StopIteration("an iterator that was empty"),
        TimeoutError("bad"),
        asyncio.CancelledError("bad"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_model_that_always_raises_never_ends_the_queue(error: BaseException) -> None:
    async def scene(queue: Queue) -> None:
        for _ in range(3):
            assert isinstance(await queue.answer(queue.submit(1, 2, 3)), errors.InferenceFailed)
        queue.model._run = lambda batch: [value * 2 for value in batch]
        assert await queue.answer(queue.submit(1)) == [2]

    play(scene, Model(raises(error)))


def test_failures_leave_nothing_behind() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        for n in range(20):
            queue.submit(n, 13, owner=str(n))
        await queue.answer(queue.submit(1))
        assert (queue.batcher.waiting, queue.batcher.waiting_tokens) == (0, 0)

    play(scene, Model(refuses(13)))


def test_closing_answers_whoever_waits() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        waiting = queue.submit(1)
        queue.batcher.close()
        assert isinstance(await queue.answer(waiting), errors.WorkerDraining)

    play(scene, Model())


def test_closing_answers_whoever_runs() -> None:
    async def scene(queue: Queue) -> None:
        running = await queue.busy()
        queue.batcher.close()
        assert isinstance(await queue.answer(running), (list, errors.WorkerDraining))

    play(scene, Model())


def test_after_closing_nothing_is_taken() -> None:
    async def scene(queue: Queue) -> None:
        await queue.answer(queue.submit(1))
        queue.batcher.close()
        with pytest.raises(errors.WorkerDraining):
            await asyncio.wait_for(queue.submit(1).done, PATIENCE_S)

    play(scene, Model())


def test_closing_what_never_ran_is_nothing() -> None:
    async def scene(queue: Queue) -> None:
        queue.batcher.close()

    play(scene, Model())


def test_a_batch_that_runs_far_beyond_its_forecast_is_told() -> None:
    async def scene(queue: Queue) -> None:
        told: list[tuple[list[Any], float]] = []
        queue.batcher.on_hung = lambda batch, seconds: told.append(([item.value for item in batch], seconds))
        await queue.busy()
        await asyncio.sleep(0.05)
        assert told == []
        await queue.idle()
        queue.batcher.speed = 1e6
        hung = await queue.busy()
        async with asyncio.timeout(PATIENCE_S):
            while not told:
                await asyncio.sleep(0.005)
        assert told == [([0], 0.02)]
        await queue.answer(hung)

    play(scene, hung_s=0.02)


def test_long_before_a_batch_is_taken_to_hang_its_callers_are_told_to_be_overdue() -> None:
    async def scene(queue: Queue) -> None:
        queue.batcher.speed = 1e6
        hung = await queue.busy()
        assert queue.batcher.overdue() == []
        async with asyncio.timeout(PATIENCE_S / 2):
            while not queue.batcher.overdue():
                await asyncio.sleep(0.005)
        (late,) = queue.batcher.overdue()
        assert late == next(iter(queue.batcher._open)).owner
        await queue.answer(hung)
        assert queue.batcher.overdue() == []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "OVERDUE_PART", 0.05)
        play(scene, hung_s=PATIENCE_S)


def test_a_batch_that_takes_as_long_as_its_tokens_do_is_not_overdue() -> None:
    async def scene(queue: Queue) -> None:
        queue.batcher.speed = 100.0
        await queue.busy()
        await asyncio.sleep(0.05)
        assert queue.batcher.overdue() == []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "OVERDUE_PART", 0.0)
        play(scene, hung_s=PATIENCE_S)


def test_before_any_batch_has_run_the_pass_at_loading_tells_what_to_expect() -> None:
    async def scene(queue: Queue) -> None:
        told: list[float] = []
        queue.batcher.on_hung = lambda batch, seconds: told.append(seconds)
        hung = await queue.busy()
        async with asyncio.timeout(PATIENCE_S):
            while not told:
                await asyncio.sleep(0.005)
        assert told == [0.02]
        await queue.answer(hung)

    play(scene, hung_s=0.02, first_speed=1e6)


def test_what_may_have_ended_another_worker_is_given_less_time() -> None:
    async def scene(queue: Queue) -> None:
        told: list[float] = []
        queue.batcher.on_hung = lambda batch, seconds: told.append(seconds)
        queue.batcher.speed = 1e6
        queue.batcher.is_suspicious = True
        hung = await queue.busy()
        async with asyncio.timeout(PATIENCE_S):
            while not told:
                await asyncio.sleep(0.005)
        assert told == [0.02]
        await queue.answer(hung)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "HUNG_SUSPECT_S", 0.02)
        play(scene, hung_s=PATIENCE_S)


def test_a_batch_may_run_many_times_as_long_as_its_tokens_usually_take() -> None:
    async def scene(queue: Queue) -> None:
        told: list[float] = []
        queue.batcher.on_hung = lambda batch, seconds: told.append(seconds)
        queue.batcher.speed = 100.0
        await queue.busy()
        await asyncio.sleep(0.1)
        assert told == []

    play(scene, hung_s=0.02)


@pytest.mark.parametrize(
    ("tokens", "speed", "hung_s", "patience"),
    [
        (100, 10.0, 30.0, 200.0),
        (100, 1000.0, 30.0, 30.0),
        (100, 0.0, 30.0, batching.HUNG_UNMEASURED_S),
        (100, 0.0, 500.0, 500.0),
    ],
)
def test_patience_grows_with_the_batch(tokens: int, speed: float, hung_s: float, patience: float) -> None:
    assert patience_s(tokens, speed, hung_s) == patience
