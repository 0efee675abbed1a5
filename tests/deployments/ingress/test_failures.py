from __future__ import annotations

from deployments.ingress.failures import REPORT_S, RUN, FailureRuns


def fail(runs: FailureRuns, worker: str, times: int, now: float = 0.0) -> list[bool]:
    return [runs.failed("m", worker, now) for _ in range(times)]


def test_a_worker_that_fails_while_another_answers_is_reported_with_the_last_failure_of_a_run() -> None:
    runs = FailureRuns()
    fail(runs, "broken", 1)
    runs.answered("m", "sound")
    assert fail(runs, "broken", RUN - 1) == [False] * (RUN - 2) + [True]


def test_an_input_that_fails_everywhere_reports_nobody() -> None:
    runs = FailureRuns()
    assert not any(any(fail(runs, worker, 1)) for _ in range(10 * RUN) for worker in ("first", "second"))


def test_workers_of_other_models_are_no_comparison() -> None:
    runs = FailureRuns()
    fail(runs, "broken", 1)
    runs.answered("another", "sound")
    assert not any(fail(runs, "broken", 2 * RUN))


def test_an_answer_ends_a_run() -> None:
    runs = FailureRuns()
    fail(runs, "w", RUN - 1)
    runs.answered("m", "sound")
    runs.answered("m", "w")
    assert not runs
    fail(runs, "w", 1)
    runs.answered("m", "sound")
    assert not any(fail(runs, "w", RUN - 2))


def test_a_worker_is_reported_again_only_after_a_while() -> None:
    runs = FailureRuns()
    fail(runs, "broken", 1)
    runs.answered("m", "sound")
    assert fail(runs, "broken", RUN, now=10.0).count(True) == 1
    assert not any(fail(runs, "broken", RUN, now=10.0 + REPORT_S / 2))
    assert fail(runs, "broken", 1, now=10.0 + REPORT_S) == [True]


def test_a_worker_that_left_is_forgotten() -> None:
    runs = FailureRuns()
    fail(runs, "broken", RUN)
    runs.forget("broken")
    assert not runs
