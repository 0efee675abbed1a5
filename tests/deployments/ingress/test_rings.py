"""What is kept of each second and of each quarter of a minute, and for how long."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from cluster.figures import Happened
from deployments.ingress.rings import COARSE_S, COARSE_STEPS, FINE_STEPS, SERIES, Ring, Rings, Steps, added

#: A second at which a coarse step begins.
NOON = 1_764_504_000


def column(steps: Steps, name: Any) -> list[float | None]:
    return [None if np.isnan(number) else float(number) for number in steps.rows[:, SERIES.index(name)]]


def busy(requests: int, *, memory: int = 0, waiting: int = 0) -> Happened:
    return Happened(requests, times=((-20, requests),), tokens=10 * requests, waiting=waiting, memory_bytes=memory)


def test_each_second_is_told_by_itself_and_a_quarter_of_a_minute_when_it_is_over() -> None:
    rings = Rings()
    for second in range(1, 31):
        rings.put(NOON + second, busy(second if second > COARSE_S else 0, memory=second))
    fine = rings.since(NOON + 14, 1)
    assert fine.begin == NOON + 14
    assert column(fine, "requests")[:3] == [0.0, 16.0, 17.0]
    assert column(fine, "tokens")[-1] == 300.0
    coarse = rings.since(0, COARSE_S)
    assert coarse.begin == NOON
    assert column(coarse, "requests") == [0.0, sum(range(16, 31)) / 15]
    assert column(coarse, "memory") == [15.0, 30.0]
    rings.put(NOON + 31, busy(1))
    assert len(rings.since(0, COARSE_S).rows) == 2


def test_seconds_in_which_nobody_looked_share_what_was_counted_and_long_gaps_stay_gaps() -> None:
    rings = Rings()
    rings.put(NOON + 1, busy(1))
    rings.put(NOON + 6, busy(10))
    assert column(rings.since(NOON, 1), "requests") == [1.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    rings.put(NOON + 106, busy(100))
    requests = column(rings.since(NOON + 6, 1), "requests")
    assert requests[:70] == [None] * 70 and requests[70:] == [1.0] * 30
    # A clock that was set back tells nothing twice.
    rings.put(NOON + 100, busy(5))
    assert column(rings.since(NOON + 6, 1), "requests") == requests


def test_the_oldest_make_room_and_no_more_is_kept_than_was_said() -> None:
    rings = Rings()
    for second in range(1, FINE_STEPS + 100):
        rings.put(NOON + second, busy(second))
    fine = rings.since(0, 1)
    assert len(fine.rows) == FINE_STEPS and fine.begin == NOON + 99
    assert column(fine, "requests")[0] == 100.0
    kept = sum(sys.getsizeof(ring._rows) for ring in (rings.fine, rings.coarse))
    assert kept < 400_000
    ring = Ring(COARSE_S, COARSE_STEPS)
    ring.put(7, 7 + 2 * COARSE_STEPS, (1.0,) * len(SERIES))
    assert len(ring.since(0).rows) == COARSE_STEPS


def test_nothing_was_timed_where_nothing_was_asked() -> None:
    rings = Rings()
    rings.put(NOON + 1, Happened())
    assert column(rings.since(0, 1), "p50") == [None]
    rings.put(NOON + 2, busy(3))
    assert column(rings.since(0, 1), "p99")[1] == column(rings.since(0, 1), "p50")[1] is not None


def test_models_are_added_up_over_the_seconds_that_any_of_them_has() -> None:
    ann, ben = Rings(), Rings()
    for second in (1, 2, 3):
        ann.put(NOON + second, busy(1, memory=10))
    ben.put(NOON + 3, busy(5, memory=7, waiting=2))
    both = added([ann.since(0, 1), ben.since(0, 1)], 1, 0)
    assert (both.begin, column(both, "requests")) == (NOON, [1.0, 1.0, 6.0])
    assert (column(both, "memory"), column(both, "p50")) == ([10.0, 10.0, 17.0], [None] * 3)
    assert len(added([], 1, NOON).rows) == 0
