from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from cluster import errors
from cluster.worker.tickets import Item
from tests.cluster.worker.queues import PATIENCE_S, Model, Queue, play


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
