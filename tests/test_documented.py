from __future__ import annotations

from pathlib import Path

from tests.documented import COMMANDS, claimed, everything, excused, table

TESTS = Path(__file__).parent


def test_everything_that_is_documented_has_a_test_or_a_reason() -> None:
    covered, excuses = set(claimed(TESTS)), excused()
    assert [item for item in everything() if item not in covered and item not in excuses] == []
    assert [item for item in excuses if item in covered] == [], "what runs needs no excuse"
    assert {*covered, *excuses} <= set(everything()), "what is not listed is not counted"


def test_the_table_counts_what_passed_of_all() -> None:
    items = [item for item in everything() if item not in excused()]
    lines = list(table({item: item != (COMMANDS, "list") for item in items if item != (COMMANDS, "login")}))
    assert lines[0] == f"{len(items) - 2} of {len(items)} documented things ran"
    start = next(place for place, line in enumerate(lines) if line.startswith(f"  {COMMANDS}"))
    assert lines[start].split()[-3:] == ["10", "of", "12"]
    assert lines[start + 1 : start + 3] == ["    failed: list", "    not run: login"]
    assert "  left out: a cluster is stopped where it was started: stop-cluster, abort_cluster" in lines
