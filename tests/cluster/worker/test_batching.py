from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from cluster import errors
from cluster.worker import batching
from cluster.worker.batching import Item, patience_s
from tests.cluster.worker.queues import PATIENCE_S, Model, Queue, play, refuses


def test_answers_come_back_in_order() -> None:
    async def scene(queue: Queue) -> None:
        assert await queue.answer(queue.submit(3, 1, 2)) == [6, 2, 4]

    play(scene)


def test_callers_share_a_batch_and_get_their_own_answers() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        first, second = queue.submit(1, 2, owner="a"), queue.submit(3, owner="b")
        assert (await queue.answer(first), await queue.answer(second)) == ([2, 4], [6])
        assert queue.model.batches == [[3, 1, 2]]

    play(scene)


def test_a_batch_stays_within_its_tokens() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        tickets = [queue.submit(n, tokens=4) for n in range(1, 6)]
        assert queue.batcher.waiting_tokens == 20
        assert [await queue.answer(ticket) for ticket in tickets] == [[2], [4], [6], [8], [10]]
        assert queue.model.batches == [[1, 2], [3, 4], [5]]

    play(scene, batch_tokens=10)


def test_an_input_larger_than_a_batch_runs_alone() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        tickets = [queue.submit(1, tokens=4), queue.submit(2, tokens=99), queue.submit(3, tokens=4)]
        assert [await queue.answer(ticket) for ticket in tickets] == [[2], [4], [6]]
        assert queue.model.batches == [[1, 3], [2]]

    play(scene, batch_tokens=10)


def test_a_batch_has_no_more_items_than_it_may() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        assert await queue.answer(queue.submit(*range(1, 8))) == [2, 4, 6, 8, 10, 12, 14]
        assert queue.model.batches == [[1, 2, 3], [4, 5, 6], [7]]

    play(scene, batch_items=3)


def test_different_keys_do_not_share_a_batch() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        tickets = [queue.submit(n, key=key) for n, key in ((1, "a"), (2, "b"), (3, "a"), (4, "b"))]
        assert [await queue.answer(ticket) for ticket in tickets] == [[2], [4], [6], [8]]
        assert queue.model.batches == [[1, 3], [2, 4]]

    play(scene)


def test_what_was_passed_over_keeps_its_place() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        tickets = [queue.submit(n, key="ab"[n % 2], tokens=4) for n in range(1, 9)]
        for ticket in tickets:
            await queue.answer(ticket)
        assert queue.model.batches == [[1, 3], [2, 4], [5, 7], [6, 8]]

    play(scene, batch_tokens=10)


def test_no_inputs_are_no_answers() -> None:
    async def scene(queue: Queue) -> None:
        assert await queue.answer(queue.submit()) == []
        assert queue.model.batches == []

    play(scene)


def test_every_batch_is_told_with_its_time() -> None:
    async def scene(queue: Queue) -> None:
        told: list[tuple[int, bool]] = []

        def hear(items: Sequence[Item], seconds: float) -> None:
            told.append((len(items), seconds >= 0))

        queue.batcher.on_batch = hear
        ticket = queue.submit(1, 2)
        await queue.answer(ticket)
        assert told == [(2, True)]
        assert ticket.started_at >= ticket.queued_at

    play(scene)


def test_a_listener_that_raises_fails_that_batch_only() -> None:
    async def scene(queue: Queue) -> None:
        queue.batcher.on_batch = lambda items, seconds: 1 / 0  # type: ignore[assignment]
        assert isinstance(await queue.answer(queue.submit(1)), errors.InferenceFailed)
        queue.batcher.on_batch = lambda items, seconds: None

    play(scene)


def test_a_short_request_goes_before_a_long_job_that_came_first() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        job, short = queue.submit(*range(10, 16), tokens=5, owner="job"), queue.submit(1, owner="short")
        assert await queue.answer(short) == [2]
        await queue.answer(job)
        assert queue.model.batches[0] == [1, 10]

    play(scene, batch_tokens=10)


def test_a_long_job_ends_however_many_short_requests_come() -> None:
    """Every fourth batch starts with the oldest request, which may fill half of it; the rest is for others."""

    async def scene(queue: Queue) -> None:
        await queue.busy()
        job = queue.submit(*range(100, 108), tokens=5, owner="job")
        shorts = [queue.submit(n, tokens=10) for n in range(40)]
        await queue.answer(job)
        done = sum(ticket.done.done() for ticket in shorts)
        assert done < len(shorts)
        for ticket in shorts:
            await queue.answer(ticket)

    play(scene, batch_tokens=10)


def test_padded_only_inputs_of_like_length_share_a_batch() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        ticket = queue.submit("a", "b", "c", "d", "e", tokens=[100, 12, 96, 14, 40])
        await queue.answer(ticket)
        assert sorted(map(sorted, queue.model.batches)) == [["a", "c"], ["b", "d"], ["e"]]

    play(scene, Model(lambda batch: list(batch)), pads=True)


def test_padded_a_batch_is_counted_with_its_padding() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        await queue.answer(queue.submit(*range(10), tokens=[30] * 5 + [26] * 5))
        assert all(len(batch) <= 3 for batch in queue.model.batches)

    play(scene, pads=True, batch_tokens=100)


@pytest.mark.parametrize("pads", [False, True])
def test_every_input_is_answered_once_in_its_place(pads: bool) -> None:
    dice = random.Random(7)

    async def scene(queue: Queue) -> None:
        tickets = []
        for owner in range(30):
            values = [(owner, n) for n in range(dice.randint(1, 40))]
            tokens = [dice.randint(1, 200) for _ in values]
            tickets.append((values, queue.submit(*values, tokens=tokens, owner=str(owner))))
        for values, ticket in tickets:
            assert await queue.answer(ticket) == values
        computed = sum(queue.model.batches, [])
        assert len(computed) == len(set(computed)) == sum(len(values) for values, _ in tickets)
        assert (queue.batcher.waiting, queue.batcher.waiting_tokens) == (0, 0)

    play(scene, Model(lambda batch: list(batch)), pads=pads, batch_tokens=256, parallel=2)


def test_two_batches_run_at_once_where_the_model_takes_two() -> None:
    both = threading.Barrier(2, timeout=PATIENCE_S)

    def run(batch: Sequence[Any]) -> Sequence[Any]:
        both.wait()
        return batch

    async def scene(queue: Queue) -> None:
        first, second = queue.submit(1, tokens=10), queue.submit(2, tokens=10)
        assert (await queue.answer(first), await queue.answer(second)) == ([1], [2])

    play(scene, Model(run), parallel=2, batch_tokens=10)


def test_an_input_without_an_answer_is_named_to_its_caller_alone() -> None:
    def run(batch: Sequence[Any]) -> Sequence[Any]:
        return [errors.BadRequest("it has no answer.", "input") if value == 13 else value for value in batch]

    async def scene(queue: Queue) -> None:
        await queue.busy()
        bad, good = queue.submit(1, 13), queue.submit(2)
        found = await queue.answer(bad)
        assert type(found) is errors.BadRequest and found.message == "Input 1: it has no answer."
        assert found.param == "input"
        assert await queue.answer(good) == [2]
        assert len(queue.model.batches) == 1

    play(scene, Model(run))


def test_an_expired_request_never_reaches_the_model() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        late, kept = queue.submit(1, seconds=0), queue.submit(2)
        assert isinstance(await queue.answer(late), errors.DeadlineExceeded)
        assert await queue.answer(kept) == [4]
        assert queue.model.batches == [[2]]

    play(scene)


def test_a_cancelled_request_never_reaches_the_model() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        gone, kept = queue.submit(1, 2, owner="gone"), queue.submit(3, owner="kept")
        assert queue.batcher.cancel("gone")
        assert isinstance(await queue.answer(gone), errors.RequestCancelled)
        assert await queue.answer(kept) == [6]
        assert queue.model.batches == [[3]]

    play(scene)


def test_cancelling_what_runs_answers_its_caller_and_harms_no_other() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        assert queue.batcher.cancel("busy")
        kept = queue.submit(1)
        assert await queue.answer(kept) == [2]

    play(scene)


def test_a_request_whose_future_was_cancelled_never_reaches_the_model() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        gone, kept = queue.submit(1), queue.submit(2)
        gone.done.cancel()
        assert await queue.answer(kept) == [4]
        assert queue.model.batches == [[2]]

    play(scene)


def test_cancelling_says_whether_there_was_anything() -> None:
    async def scene(queue: Queue) -> None:
        assert not queue.batcher.cancel("me")
        await queue.busy()
        queue.submit(1)
        assert queue.batcher.cancel("me")
        assert not queue.batcher.cancel("me")

    play(scene)


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
