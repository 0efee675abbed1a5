from __future__ import annotations

import pytest

from cluster.worker.admission import QueueLimits, QueueState, is_for_the_oldest, leaders_share, refusal

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
