from __future__ import annotations

import pickle
from typing import Any

import pytest
from ray import cloudpickle

from cluster import errors

EVERY = sorted(errors.every_error().values(), key=lambda error: error.__name__)


def drawn() -> dict[str, tuple[str | None, int]]:
    """The parent and the status of each name, read from the tree in the module's docstring."""
    path: list[str] = []
    found: dict[str, tuple[str | None, int]] = {}
    lines = (errors.__doc__ or "").split("\n\n")[1].splitlines()
    for line in lines:
        branch = line.rstrip()
        name, status = branch.lstrip("│├└─ ").split()[:2]
        depth = (len(branch) - len(branch.lstrip("│├└─ "))) // 4
        path[depth:] = [name]
        found[name] = (path[depth - 1] if depth else None, int(status))
    return found


def test_the_tree_in_the_docstring_is_the_classes() -> None:
    parents = {error.__name__: error.__base__.__name__ if error.__base__ else None for error in EVERY}
    parents["ClusterError"] = None
    assert drawn() == {error.__name__: (parents[error.__name__], error.status) for error in EVERY}


@pytest.mark.parametrize("error", EVERY, ids=lambda error: error.__name__)
@pytest.mark.parametrize("pickled", [pickle, cloudpickle], ids=["pickle", "cloudpickle"])
def test_errors_cross_processes_whole(error: type[errors.ClusterError], pickled: Any) -> None:
    sent = error("m fits on no node (a: draining).", "n_gpu", 30.0)
    arrived = pickled.loads(pickled.dumps(sent))
    assert type(arrived) is error
    assert (arrived.message, arrived.param, arrived.retry_after_s) == (sent.message, "n_gpu", 30.0)
    assert str(arrived) == "m fits on no node (a: draining)."


def test_a_message_alone_is_enough() -> None:
    arrived = pickle.loads(pickle.dumps(errors.WorkerLost("The process is gone.")))
    assert (arrived.message, arrived.retry_after_s, arrived.param) == ("The process is gone.", None, None)


def test_every_class_has_its_own_code_on_the_wire() -> None:
    assert len({error.code() for error in EVERY}) == len(EVERY) == len(drawn())
    assert all(errors.every_error()[error.code()] is error for error in EVERY)


@pytest.mark.parametrize(
    ("error", "code"),
    [(errors.DoesNotFit, "does_not_fit"), (errors.UnknownUid, "unknown_uid"), (errors.ClusterError, "cluster_error")],
)
def test_the_code_is_the_name_in_snake_case(error: type[errors.ClusterError], code: str) -> None:
    assert error.code() == code


def test_only_errors_of_a_worker_that_computed_nothing_go_to_another() -> None:
    assert {error.__name__ for error in EVERY if error.retryable} == {
        *("Overloaded", "ModelLoading", "WorkerLost", "WorkerDraining", "WorkerReserved", "Unavailable")
    }


def test_statuses_are_http_errors_and_exit_codes_fit_a_byte() -> None:
    for error in EVERY:
        assert 400 <= error.status <= 599, error
        assert 1 <= error.exit_code <= 125, error
