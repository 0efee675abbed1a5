"""Which waiting calls a pass takes along."""

from __future__ import annotations

from typing import NamedTuple

from deployments.image.gathering import OLDEST_EVERY, gathered, leader


class Waiting(NamedTuple):
    name: str
    cost_left: float = 1.0
    arrived: float = 0.0
    key: str = "512x512"
    samples: int = 1


def names(waiting: list[Waiting], turn: int = 1, capacity: int = 16) -> str:
    return "".join(call.name for call in gathered(waiting, turn, lambda call: capacity))


def test_the_request_with_the_least_work_left_leads() -> None:
    assert names([Waiting("a", 5), Waiting("b", 2), Waiting("c", 3)]) == "bca"


def test_every_few_turns_the_oldest_call_leads() -> None:
    waiting = [Waiting("a", 5, arrived=1), Waiting("b", 2, arrived=2), Waiting("c", 9, arrived=0)]
    leaders = "".join(leader(waiting, turn).name for turn in range(1, 2 * OLDEST_EVERY + 1))
    assert leaders == ("b" * (OLDEST_EVERY - 1) + "c") * 2


def test_the_oldest_takes_along_those_with_the_least_work_left() -> None:
    waiting = [Waiting("a", 5, arrived=0), Waiting("b", 9, arrived=1), Waiting("c", 1, arrived=2)]
    assert names(waiting, OLDEST_EVERY, capacity=2) == "ac"


def test_only_calls_that_can_share_a_pass_are_gathered() -> None:
    waiting = [Waiting("a", 1), Waiting("b", 2, key="1024x512"), Waiting("c", 3)]
    assert names(waiting) == "ac"


def test_capacity_counts_samples_not_calls() -> None:
    waiting = [Waiting(name, cost, samples=2) for cost, name in enumerate("abcd")]
    assert names(waiting, capacity=5) == "ab"


def test_a_call_larger_than_the_capacity_goes_alone() -> None:
    assert names([Waiting("a", 1, samples=4), Waiting("b", 2, samples=4)], capacity=2) == "a"


def test_the_capacity_is_asked_once_and_for_the_leader() -> None:
    asked: list[Waiting] = []

    def capacity(call: Waiting) -> int:
        asked.append(call)
        return 1

    waiting = [Waiting("a", 2), Waiting("b", 1)]
    assert gathered(waiting, 1, capacity) == asked == [waiting[1]]
