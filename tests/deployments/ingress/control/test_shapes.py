from __future__ import annotations

import pytest

from cluster.status import WorkerState
from deployments.ingress.control.shapes import replica_state


@pytest.mark.parametrize("state", WorkerState)
def test_only_a_worker_that_serves_is_called_ready(state: WorkerState) -> None:
    assert (replica_state(state) == "READY") == (state in (WorkerState.READY, WorkerState.SUSPECT))


@pytest.mark.parametrize(
    ("state", "word"),
    [("LOADING", "CREATING"), ("DRAINING", "TERMINATING"), ("FAILED", "ERROR"), ("GONE", "ERROR")],
)
def test_xinference_has_words_for_the_others(state: str, word: str) -> None:
    assert replica_state(WorkerState(state)) == word
