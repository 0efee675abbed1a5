"""The matrix of faults is complete: each row is run or says why it cannot be."""

from __future__ import annotations

from benchmarks.faults import attacks, deaths, requests, wishes
from benchmarks.faults.rows import ROWS


def test_every_fault_and_every_class_of_attacks_has_its_row() -> None:
    assert attacks and deaths and requests and wishes
    assert {str(number) for number in range(1, 53)} | {f"a{number}" for number in range(1, 17)} <= set(ROWS)
    assert all(row.run is not None or row.why_not for row in ROWS.values())
