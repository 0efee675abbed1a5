"""The matrix of faults is complete: each row is run or says why it cannot be. The cluster on paper is one that the
supervisor of today can run."""

from __future__ import annotations

import asyncio

from benchmarks import growth
from benchmarks.faults import attacks, deaths, requests, wishes
from benchmarks.faults.rows import ROWS


def test_every_fault_and_every_class_of_attacks_has_its_row() -> None:
    assert attacks and deaths and requests and wishes
    assert {str(number) for number in range(1, 53)} | {f"a{number}" for number in range(1, 17)} <= set(ROWS)
    assert all(row.run is not None or row.why_not for row in ROWS.values())


def test_the_cluster_on_paper_grows() -> None:
    small, larger = asyncio.run(growth.grown(2)), asyncio.run(growth.grown(20))
    assert set(growth.exponents({2: small, 20: larger})) == set(small)
    assert asyncio.run(growth.tables_while_one_backs_off(ticks=2)) == 0
    assert asyncio.run(growth.launched(3))[0] > 0
