"""What is shown of the progress of a launch."""

from __future__ import annotations

from cluster.cli.progress import ProgressRow, rows_of
from tests.cluster.statuses import make_status, make_worker


def test_without_a_worker_the_reason_is_shown() -> None:
    assert rows_of(make_status(state="WAITING", reason="no room")) == [ProgressRow("m", "no room", 0.0)]
    assert rows_of(make_status()) == [ProgressRow("m", "waiting", 0.0)]


def test_one_replica_has_the_models_name() -> None:
    worker = make_worker(stage="downloading", progress=0.1, done_bytes=0, total_bytes=2 * 2**20)
    assert rows_of(make_status(workers=(worker,))) == [ProgressRow("m", "downloading", 0.1, "0 B of 2.0 MiB")]


def test_replicas_have_a_row_each() -> None:
    workers = (make_worker(1, stage="loading", progress=0.5), make_worker(0, "READY", progress=0.9))
    assert rows_of(make_status(replica=2, workers=workers)) == [
        ProgressRow("m 1/2", "ready", 1.0),
        ProgressRow("m 2/2", "loading", 0.5),
    ]


def test_a_replica_that_was_lost_shows_the_worker_in_its_place() -> None:
    workers = (make_worker(0, "STARTING", created=2.0), make_worker(0, "LOST", created=1.0, reason="killed"))
    assert rows_of(make_status(workers=workers)) == [ProgressRow("m", "starting", 0.0)]


def test_why_a_replica_failed_is_left_to_the_error() -> None:
    worker = make_worker(0, "FAILED", progress=0.1, reason="m could not be loaded.")
    assert rows_of(make_status(workers=(worker,))) == [ProgressRow("m", "failed", 0.1)]


def test_workers_of_another_generation_are_not_this_launch() -> None:
    workers = (make_worker(0, "READY", generation=1), make_worker(0, "LOADING", generation=2, stage="loading"))
    assert rows_of(make_status(generation=2, workers=workers)) == [ProgressRow("m", "loading", 0.0)]
