from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cluster import errors
from cluster.worker import batching
from cluster.worker.admission import QueueLimits, QueueState, is_for_the_oldest, leaders_share, refusal
from tests.cluster.worker.queues import Queue, play

#: 100 tokens per second, ten seconds of waiting allowed.
LIMITS = QueueLimits(queue_tokens=10_000, max_wait_s=10.0, max_wait_from=0, burst_tokens=0)
MINUTE = 60.0


def queue(*sizes: int, speed: float = 100.0, is_overloaded: bool = False) -> tuple[QueueState, list[int]]:
    return QueueState(len(sizes), sum(sizes), speed, is_overloaded), list(sizes)


@pytest.mark.parametrize(
    ("why", "tokens", "seconds_left", "waiting", "limits"),
    [
        ("nothing waits, so even what is larger than the queue", 50_000, MINUTE, queue(), LIMITS),
        ("the queue is just full", 9_900, MINUTE, queue(100), LIMITS),
        ("no wait is too long", 10, MINUTE, queue(9_000), QueueLimits(max_wait_s=None)),
        ("the speed is not known", 10, MINUTE, queue(9_000, speed=0.0), LIMITS),
        ("what waits takes less than is allowed", 10, MINUTE, queue(1_000), LIMITS),
        ("what waits is larger, so this one goes first", 10, MINUTE, queue(5_000), LIMITS),
        ("it takes long itself, so eight times that is worth waiting", 500, MINUTE, queue(*[500] * 8), LIMITS),
        ("few requests are no overload", 10, MINUTE, queue(*[10] * 200), QueueLimits(max_wait_s=1, max_wait_from=201)),
        ("many short ones are none either", 10, MINUTE, queue(*[10] * 200), QueueLimits(max_wait_s=1, max_wait_from=4)),
        ("overloaded, but what waits is much larger", 10, MINUTE, queue(5_000, is_overloaded=True), LIMITS),
    ],
)
def test_who_is_let_in(
    why: str, tokens: int, seconds_left: float, waiting: tuple[QueueState, list[int]], limits: QueueLimits
) -> None:
    state, sizes = waiting
    assert refusal(tokens, seconds_left, state, sizes, limits) is None, why


@pytest.mark.parametrize(
    ("why", "tokens", "seconds_left", "waiting", "says", "retry_after_s", "begins_overload"),
    [
        ("the queue is full", 9_901, MINUTE, queue(100), "The queue is full: 100 tokens", 1.0, False),
        ("full, and it is told when to come back", 9_000, MINUTE, queue(5_000), "5000 tokens wait", 50.0, False),
        ("full of a model that has not computed yet", 9_901, MINUTE, queue(100, speed=0), "is full", 1.0, False),
        ("shorter ones take too long", 100, MINUTE, queue(*[100] * 11), "wait 11.0 s, 10.0 s is", 11.0, True),
        ("it has no time itself", 100, 1.0, queue(*[100] * 2), "wait 2.0 s, 1.0 s is", 2.0, False),
        ("overloaded, less wait", 100, MINUTE, queue(250, 250, is_overloaded=True), "10.0 s, 8.0 s", 10.0, False),
        ("overloaded, larger ones count", 10, MINUTE, queue(*[40] * 4, is_overloaded=True), "3.2 s, 2.5 s", 3.2, False),
    ],
)  # fmt: skip
def test_who_is_refused(
    why: str,
    tokens: int,
    seconds_left: float,
    waiting: tuple[QueueState, list[int]],
    says: str,
    retry_after_s: float,
    begins_overload: bool,
) -> None:
    state, sizes = waiting
    refused = refusal(tokens, seconds_left, state, sizes, LIMITS)
    assert refused is not None, why
    assert says in refused.error.message
    assert refused.error.retry_after_s == pytest.approx(retry_after_s)
    assert refused.begins_overload == begins_overload


def test_a_burst_is_no_excuse_while_overloaded() -> None:
    limits = QueueLimits(max_wait_s=1.0, max_wait_from=100)
    state, sizes = queue(*[10] * 50, is_overloaded=True)
    assert refusal(10, MINUTE, state, sizes, limits) is not None
    assert refusal(10, MINUTE, state._replace(is_overloaded=False), sizes, limits) is None


@pytest.mark.parametrize(("is_overloaded", "turns"), [(False, [4, 8]), (True, [2, 4, 6, 8])])
def test_the_oldest_leads_more_often_while_overloaded(is_overloaded: bool, turns: list[int]) -> None:
    assert [turn for turn in range(1, 9) if is_for_the_oldest(turn, is_overloaded)] == turns


@pytest.mark.parametrize(
    ("is_for_oldest", "has_others", "is_overloaded", "share"),
    [
        (True, True, False, 50),
        (True, False, False, 100),
        (True, True, True, 100),
        (False, True, False, 100),
    ],
)
def test_who_leads_for_its_age_leaves_half_to_shorter_ones(
    is_for_oldest: bool, has_others: bool, is_overloaded: bool, share: int
) -> None:
    assert leaders_share(100, is_for_oldest, has_others, is_overloaded) == share


def test_a_request_is_let_in_whole_or_not_at_all() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        queue.submit(1, tokens=6)
        with pytest.raises(errors.Overloaded) as caught:
            queue.submit(2, 3, tokens=3)
        assert caught.value.message == "The queue is full: 6 tokens wait, at most 10 may."
        assert caught.value.retry_after_s == 1.0
        assert (queue.batcher.waiting, queue.batcher.waiting_tokens) == (1, 6)
        queue.submit(4, tokens=4)

    play(scene, queue_tokens=10)


def test_a_request_larger_than_the_queue_is_let_in_when_nothing_waits() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        large = queue.submit(1, 2, tokens=50)
        with pytest.raises(errors.Overloaded):
            queue.submit(3)
        assert await queue.answer(large) == [2, 4]

    play(scene, queue_tokens=10)


def test_a_request_that_would_wait_too_long_is_refused_and_told_when_to_come_back() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        queue.batcher.speed = 10.0
        for n in range(20):
            queue.submit(n)
        queue.submit(20)
        with pytest.raises(errors.Overloaded) as caught:
            queue.submit(21)
        assert caught.value.retry_after_s == pytest.approx(2.1)
        queue.batcher.speed = 1000.0

    play(scene, max_wait_s=2.0)


def test_a_short_request_waits_for_what_goes_before_it_and_for_no_more() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        queue.batcher.speed = 10.0
        queue.submit(1, tokens=500)
        queue.submit(2, tokens=1)

    play(scene, max_wait_s=2.0)


def test_with_few_waiting_nobody_is_refused_for_the_time() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        queue.batcher.speed = 1.0
        for n in range(20):
            queue.submit(n)
        with pytest.raises(errors.Overloaded):
            queue.submit(20)
        queue.batcher.speed = 1000.0

    play(scene, max_wait_s=2.0, max_wait_from=20, burst_tokens=0)


def test_many_who_wait_with_little_each_are_no_overload() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        queue.batcher.speed = 1.0
        for n in range(40):
            queue.submit(n)
        with pytest.raises(errors.Overloaded):
            queue.submit(40)
        queue.batcher.speed = 1000.0

    play(scene, max_wait_s=2.0, max_wait_from=4, burst_tokens=10)


def test_nobody_is_let_in_who_will_be_late_however_few_wait() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        queue.batcher.speed = 1.0
        for n in range(5):
            queue.submit(n)
        with pytest.raises(errors.Overloaded, match="would wait 5.0 s, 3.0 s is allowed"):
            queue.submit(5, seconds=3)
        queue.submit(6)
        queue.batcher.speed = 1000.0

    play(scene, max_wait_s=2.0, max_wait_from=20, burst_tokens=0)


def test_once_somebody_was_refused_the_time_counts_for_a_while_though_nobody_waits(monkeypatch: Any) -> None:
    monkeypatch.setattr(batching, "OVERLOADED_S", 0.5)

    async def scene(queue: Queue) -> None:
        await queue.busy()
        queue.batcher.speed = 1.0
        for n in range(20):
            queue.submit(n, owner=f"r{n}")
        with pytest.raises(errors.Overloaded):
            queue.submit(20)
        for n in range(20):
            queue.batcher.cancel(f"r{n}")
        for n in range(5):
            queue.submit(n, owner=f"s{n}")
        with pytest.raises(errors.Overloaded):
            queue.submit(21)
        await asyncio.sleep(0.6)
        for n in range(30, 45):
            queue.submit(n)
        queue.batcher.speed = 1000.0

    play(scene, max_wait_s=2.0, max_wait_from=20, burst_tokens=0)


def test_whoever_has_no_time_to_wait_costs_the_others_nothing() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        queue.batcher.speed = 10.0
        for n in range(15):
            queue.submit(n)
        with pytest.raises(errors.Overloaded):
            queue.submit(15, seconds=0.5)
        queue.submit(16)
        queue.batcher.speed = 1000.0

    play(scene, max_wait_s=2.0)


def test_once_somebody_was_refused_the_queue_is_kept_short_for_those_who_are_let_in() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        queue.batcher.speed = 10.0
        for n in range(41):
            queue.submit(n, owner=f"r{n}")
        with pytest.raises(errors.Overloaded, match="4.0 s is allowed"):
            queue.submit(41)
        for n in range(35):
            queue.batcher.cancel(f"r{n}")
        with pytest.raises(errors.Overloaded, match="would wait 1.2 s, 1.0 s is allowed"):
            queue.submit(42)
        queue.batcher.cancel("r35")
        queue.submit(43)
        queue.batcher.speed = 1000.0

    play(scene, max_wait_s=4.0)


def test_a_large_request_may_wait_in_proportion() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        queue.batcher.speed = 10.0
        queue.submit(1, tokens=100)
        queue.submit(2, tokens=100)

    play(scene, max_wait_s=2.0)


@pytest.mark.parametrize(("callers", "before"), [(19, 2), (20, 0)])
def test_whoever_waits_longest_comes_sooner_where_somebody_was_refused(callers: int, before: int) -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        queue.batcher.speed = 1.0
        longest = queue.submit("long", tokens=5)
        for n in range(1, callers):
            queue.submit(n)
        if callers == 20:
            with pytest.raises(errors.Overloaded):
                queue.submit(20)
        queue.batcher.speed = 1000.0
        assert await queue.answer(longest) == ["longlong"]
        assert queue.model.batches.index(["long"]) == before

    play(scene, max_wait_s=2.0, max_wait_from=20, burst_tokens=0, batch_tokens=1)


def test_what_cannot_be_done_within_its_deadline_is_refused_at_once() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        queue.batcher.speed = 10.0
        queue.submit(1, tokens=100)
        with pytest.raises(errors.Overloaded):
            queue.submit(2, tokens=100, seconds=5)

    play(scene, max_wait_s=2.0)


def test_cancelled_work_makes_room_at_once() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        queue.submit(1, 2, tokens=5, owner="gone")
        queue.batcher.cancel("gone")
        assert queue.batcher.waiting_tokens == 0
        queue.submit(3, tokens=10)

    play(scene, queue_tokens=10)
