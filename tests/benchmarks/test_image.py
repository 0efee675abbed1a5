from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.image import AT_ONCE, LOOP, Row, aims_of, asked_by, median


def row(server: str, callers: int, images_per_s: float, p50_ms: float = 100.0, failed: int = 0) -> Row:
    return Row(server, "tiny", callers, images_per_s, p50_ms, p50_ms, 0.1, 500.0, failed)


def test_no_two_requests_of_a_run_are_the_same() -> None:
    every = [one for caller in range(16) for one in asked_by(caller)]
    assert len(set(every)) == len(every) == len({prompt for prompt, _ in every})


def test_the_median_round_is_shown_and_every_failure_counts() -> None:
    found = median([row("ours", 1, 9.0), row("ours", 1, 1.0, failed=2), row("ours", 1, 5.0)])
    assert (found.images_per_s, found.failed) == (5.0, 2)


@pytest.mark.parametrize(("at_once", "least"), [(20.0, 2.5), (12.0, 0.97)])
def test_more_than_the_loop_is_aimed_at_only_where_a_batch_shows_that_it_can_be_had(
    at_once: float, least: float
) -> None:
    rows = [row(LOOP, 1, 5.0), row(AT_ONCE, 16, at_once)]
    rows += [replace(row("ours", 1, 4.0), time_of_the_loops=1.05), replace(row("ours", 16, 9.0), rate_of_the_loops=3.0)]
    found = aims_of("tiny", rows)
    assert found.time_of_one == pytest.approx(1.05)
    assert found.of_the_loop == pytest.approx(3.0)
    assert found.least_of_the_loop == least
    assert found.of_xinference is None


def test_a_server_that_failed_is_compared_with_nobody() -> None:
    found = aims_of("tiny", [row("ours", 16, 15.0), row("xinference", 16, 5.0, failed=1)])
    assert found.of_xinference is None
