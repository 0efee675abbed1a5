from __future__ import annotations

import pytest

from cluster import errors
from cluster.launching import has_ended
from cluster.status import ModelStatus
from tests.cluster.statuses import make_status, make_worker

READY_AND_FAILED = (
    make_worker(0, "READY"),
    make_worker(1, "FAILED", error_code="load_failed", reason="Bad weights."),
)

GOES_ON = {
    "it loads": (make_status(), 1),
    "a lost worker comes back": (make_status(error_code="worker_lost", reason="lost"), 1),
    "one replica failed and another loads": (
        make_status(replica=2, workers=(make_worker(0, "FAILED"), make_worker(1, "LOADING"))),
        1,
    ),
    "a worker of an older generation failed": (
        make_status(generation=2, state="DEGRADED", workers=(make_worker(0, "FAILED", generation=1),)),
        2,
    ),
    "an older generation failed": (make_status(state="FAILED"), 2),
    "an older generation is READY": (make_status(state="READY"), 2),
}

FAILED = {
    "for good": (make_status(state="FAILED", error_code="load_failed", reason="Bad."), errors.LoadFailed),
    "with a code of a newer version": (make_status(state="FAILED", error_code="eaten"), errors.LoadFailed),
    "in one replica for good": (
        make_status(state="DEGRADED", replica=2, workers=READY_AND_FAILED),
        errors.LoadFailed,
    ),
    "as it fits nowhere": (
        make_status(state="WAITING", error_code="does_not_fit", reason="m fits nowhere."),
        errors.DoesNotFit,
    ),
    "as it was replaced": (make_status(state="READY", generation=2), errors.LaunchCancelled),
}


@pytest.mark.parametrize("generation", [0, 1])
def test_a_launch_that_is_ready_has_ended(generation: int) -> None:
    assert has_ended(make_status(state="READY"), generation)


@pytest.mark.parametrize(("status", "generation"), GOES_ON.values(), ids=GOES_ON)
def test_a_launch_that_may_still_become_ready_has_not_ended(status: ModelStatus, generation: int) -> None:
    assert not has_ended(status, generation)


@pytest.mark.parametrize(("status", "kind"), FAILED.values(), ids=FAILED)
def test_a_launch_that_failed_raises_why(status: ModelStatus, kind: type[errors.ClusterError]) -> None:
    with pytest.raises(kind) as raised:
        has_ended(status, 1)
    assert type(raised.value) is kind and raised.value.message


def test_a_replica_that_failed_gives_its_reason_and_the_log_comes_along() -> None:
    status = make_status(state="DEGRADED", replica=2, workers=READY_AND_FAILED, log_tail=("a", "b"))
    with pytest.raises(errors.LoadFailed, match="Bad weights") as raised:
        has_ended(status)
    assert raised.value.log_tail == ("a", "b")
