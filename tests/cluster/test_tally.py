from __future__ import annotations

import pytest

from cluster.tally import Counting, seconds_of, step_of, together


def counted(*seconds: float, faults: int = 0) -> Counting:
    counting = Counting()
    for each in seconds:
        counting.answered(each)
    for _ in range(faults):
        counting.failed()
    return counting


def test_counts_of_several_processes_add_up() -> None:
    both = together([counted(0.01, 0.02, faults=1).so_far, counted(0.02, 3.0).so_far])
    assert (both.requests, both.faults, both.timed) == (5, 1, 4)
    assert together([]) == counted().so_far
    assert both == counted(3.0, 0.02, 0.01, 0.02, faults=1).so_far


@pytest.mark.parametrize("seconds", [1e-5, 0.0031, 0.5, 7.0, 900.0])
def test_a_time_is_known_within_a_tenth(seconds: float) -> None:
    assert seconds_of(step_of(seconds)) == pytest.approx(seconds, rel=0.1)


def test_quantiles_are_those_of_the_times() -> None:
    tally = counted(*[0.01] * 90, *[1.0] * 10).so_far
    assert tally.quantile_s(0.5) == pytest.approx(0.01, rel=0.1)
    assert tally.quantile_s(0.95) == pytest.approx(1.0, rel=0.1)
    assert tally.slower_than(0.1) == 10
    assert counted().so_far.quantile_s(0.5) == 0.0
