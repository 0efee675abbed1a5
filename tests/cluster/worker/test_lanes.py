from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from cluster import errors
from cluster.calls import BATCH_PART, is_batch
from cluster.worker import lanes
from cluster.worker.admission import QueueLimits
from cluster.worker.lanes import AGED_S, BATCH_EVERY, ahead_of, in_turn
from cluster.worker.owners import is_of
from cluster.worker.stepping import SteppedQueue
from tests.cluster.worker.queues import Queue, play

BATCH = f"r{BATCH_PART}#1"


@dataclass
class Waiting:
    owner: str
    queued_at: float = 0.0


def test_the_mark_is_a_part_of_the_id_that_ends_with_the_call() -> None:
    assert is_batch(BATCH) and is_batch(f"r@key{BATCH_PART}#7#c1")
    assert not is_batch("r#1") and not is_batch("batch") and not is_batch("r@key#batch")
    assert is_of(f"r@key{BATCH_PART}#7#c1", "r@key"), "it is cancelled like any other"


def test_interactive_requests_go_first_and_alone_each_lane_goes() -> None:
    batch, other, talk = Waiting(BATCH), Waiting(BATCH, 1.0), Waiting("r#2")
    assert in_turn([batch, talk, other], 1, 1.0) == [talk]
    assert in_turn([batch, other], 1, 1.0) == [batch, other]
    assert in_turn([talk], BATCH_EVERY, 1.0) == [talk]
    assert in_turn([], 1, 1.0) == []


def test_what_has_waited_for_long_gets_a_turn_now_and_then() -> None:
    batch, talk = Waiting(BATCH), Waiting("r#2", AGED_S)
    turns = [in_turn([batch, talk], turn, AGED_S) for turn in range(2 * BATCH_EVERY)]
    assert turns.count([batch]) == 2 and turns.count([talk]) == 2 * BATCH_EVERY - 2
    assert all(in_turn([batch, talk], turn, AGED_S / 2) == [talk] for turn in range(2 * BATCH_EVERY))


def test_a_batch_is_in_nobodys_way() -> None:
    batch, talk = Waiting(BATCH), Waiting("r#2")
    assert ahead_of("me#1", [batch, talk]) == [talk]
    assert ahead_of(BATCH, [batch, talk]) == [batch, talk]


# ------------------------------------------------------------------------------------------- before a model


@pytest.mark.parametrize("pads", [False, True])
def test_before_a_model_they_are_computed_first_and_what_is_left_of_a_batch_is_filled(pads: bool) -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        batch = [queue.submit(n, owner=BATCH) for n in range(1, 6)]
        talks = [queue.submit(n) for n in (11, 12, 13)]
        for ticket in (*talks, *batch):
            await queue.answer(ticket)
        assert [sorted(each) for each in queue.model.batches] == [[1, 11, 12, 13], [2, 3, 4, 5]]

    play(scene, batch_tokens=4, pads=pads)


def test_a_batch_goes_on_while_others_never_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "AGED_S", 0.0)

    async def scene(queue: Queue) -> None:
        await queue.busy()
        batch = queue.submit(1, owner=BATCH)
        talks = [queue.submit(n) for n in range(10, 10 + 3 * BATCH_EVERY)]
        await queue.answer(batch)
        assert queue.model.batches.index([1]) < BATCH_EVERY
        for ticket in talks:
            await queue.answer(ticket)

    play(scene, batch_tokens=1)


def test_an_interactive_request_is_not_refused_for_a_batch_that_waits_nor_a_batch_for_its_wait() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        queue.batcher.speed = 1.0
        batch = [queue.submit(n, owner=BATCH, tokens=10) for n in range(1, 4)]
        with pytest.raises(errors.Overloaded, match="would wait"):
            queue.submit(9, owner=BATCH, tokens=10, seconds=20)
        talk = queue.submit(11, tokens=1)
        with pytest.raises(errors.Overloaded, match="would wait"):
            queue.submit(12, tokens=1, seconds=0.5)
        for ticket in (talk, *batch):
            await queue.answer(ticket)

    play(scene, max_wait_s=1.0)


def test_a_full_queue_of_a_batch_lets_others_in() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        batch = [queue.submit(n, owner=BATCH, tokens=5) for n in (1, 2)]
        with pytest.raises(errors.Overloaded, match="full"):
            queue.submit(3, owner=BATCH)
        for ticket in (queue.submit(4), *batch):
            await queue.answer(ticket)

    play(scene, queue_tokens=10)


def test_what_a_batch_asks_too_is_computed_for_others_without_waiting_for_it() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        batch = queue.submit(7, 8, 9, owner=BATCH, same=True)
        talk = queue.submit(9, same=True)
        assert await queue.answer(talk) == [18]
        assert await queue.answer(batch) == [14, 16, 18]
        assert queue.model.batches[0] == [9]

    play(scene, batch_tokens=1)


def test_limits_of_batches_keep_all_but_the_wait() -> None:
    assert QueueLimits(5, 1.0).of_batch == QueueLimits(5, float("inf"))
    assert QueueLimits(5).of_batch == QueueLimits(5)


# ------------------------------------------------------------------------------------------- one by one


def test_what_is_worked_on_one_by_one_goes_in_the_same_order() -> None:
    async def scene() -> None:
        order: list[str] = []
        gate = asyncio.Event()

        class Gated(SteppedQueue):
            async def _work(self, request: Any, index: int) -> None:
                order.append(request.values[index])
                await gate.wait()
                self._settle(request, index, request.values[index])
                self.running -= 1
                self._start()

        queue = Gated(lambda value, progress: value, None, parallel=1)
        requests = [queue.submit(["first"], [1.0], owner="r#0", seconds_left=9)]
        requests += [queue.submit([f"b{n}"], [1.0], owner=f"r{BATCH_PART}#{n}", seconds_left=9) for n in (1, 2)]
        requests += [queue.submit([f"t{n}"], [1.0], owner=f"r#{n}", seconds_left=9) for n in (1, 2)]
        gate.set()
        await asyncio.gather(*(request.done for request in requests))
        assert order == ["first", "t1", "t2", "b1", "b2"]

    asyncio.run(scene())
