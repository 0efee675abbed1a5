"""Launching by the client: what is sent, and following the launch until it has ended."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cluster import LaunchSpec, errors
from cluster.client.launches import body_of, spec_of
from tests.cluster.client.wire import Wire, client_of, result_of_async
from tests.cluster.statuses import make_status, make_worker


def test_launch_follows_the_status_until_it_is_ready() -> None:
    wire = Wire(
        {"model_uid": "m", "generation": 2},
        make_status(state="READY", generation=1, version=7),
        make_status(state="LOADING", generation=2, version=8),
        make_status(state="READY", generation=2, version=9),
    )
    with client_of(wire) as client:
        assert client.launch_model("m") == "m"
    assert [query.get("version") for _, path, query, _ in wire.asked if path.endswith("/status")] == [None, "7", "8"]


def test_waiting_tells_every_change() -> None:
    told: list[str] = []
    wire = Wire(make_status(state="LOADING", version=1), make_status(state="READY", version=2))
    with client_of(wire) as client:
        client.wait_until_ready("m", on_status=lambda status: told.append(status.state))
    assert told == ["LOADING", "READY"]


def test_the_async_client_waits_too() -> None:
    wire = Wire({"model_uid": "m", "generation": 1}, make_status(version=1), make_status(state="READY", version=2))
    assert asyncio.run(result_of_async(lambda c: c.launch_model("m"), wire)) == "m"


FAILURES = {
    "load": (make_status(state="FAILED", error_code="load_failed", reason="Bad."), errors.LoadFailed),
    "download": (make_status(state="FAILED", error_code="download_failed", reason="Bad."), errors.DownloadFailed),
    "a code of a newer server": (make_status(state="FAILED", error_code="eaten", reason="Bad."), errors.LoadFailed),
    "no room": (make_status(state="WAITING", error_code="does_not_fit", reason="Bad."), errors.DoesNotFit),
    "replaced by a newer launch": (make_status(state="READY", generation=2), errors.LaunchCancelled),
    "gone": (errors.UnknownUid("m is not launched."), errors.LaunchCancelled),
    "some replicas failed for good": (
        make_status(
            state="DEGRADED",
            replica=2,
            workers=(make_worker(0, "READY"), make_worker(1, "FAILED", error_code="load_failed", reason="Bad.")),
        ),
        errors.LoadFailed,
    ),
}


@pytest.mark.parametrize(("answer", "kind"), FAILURES.values(), ids=FAILURES)
def test_a_failed_launch_raises_its_reason(answer: Any, kind: type[errors.ClusterError]) -> None:
    with client_of(Wire(answer)) as client, pytest.raises(kind) as raised:
        client.wait_until_ready("m", generation=1)
    assert type(raised.value) is kind
    assert raised.value.message


GOES_ON = {
    "a lost worker comes back": (make_status(error_code="worker_lost", reason="lost", version=1), 1),
    "one replica still loads": (
        make_status(replica=2, workers=(make_worker(0, "FAILED"), make_worker(1, "LOADING")), version=1),
        1,
    ),
    "an older generation failed": (make_status(state="FAILED", generation=1, version=1), 2),
    "the supervisor restarts": (errors.Unavailable("The supervisor restarts."), 1),
}


@pytest.mark.parametrize(("answer", "generation"), GOES_ON.values(), ids=GOES_ON)
def test_waiting_goes_on(answer: Any, generation: int) -> None:
    with client_of(Wire(answer, make_status(state="READY", generation=generation, version=2))) as client:
        assert client.wait_until_ready("m", generation).state == "READY"


def test_the_end_of_the_log_comes_with_the_error() -> None:
    failed = make_status(state="FAILED", error_code="load_failed", reason="m could not be loaded.", log_tail=("a", "b"))
    with client_of(Wire(failed)) as client, pytest.raises(errors.LoadFailed) as raised:
        client.wait_until_ready("m")
    assert raised.value.log_tail == ("a", "b")
    held = errors.LoadFailed("m could not be loaded.")
    with client_of(Wire(held, log_tail=("c",))) as client, pytest.raises(errors.LoadFailed) as raised:
        client.submit(LaunchSpec(model_name="m"))
    assert raised.value.log_tail == ("c",)


def test_the_time_is_up_but_the_wish_stays() -> None:
    with client_of(Wire(make_status("bge", version=1, stage="downloading", progress=0.25))) as client:
        with pytest.raises(errors.DeadlineExceeded) as raised:
            client.wait_until_ready("bge", timeout=0.01)
    assert raised.value.message.startswith("bge is not READY after 0.01 s (downloading 25%). The launch of bge goes on")
    assert "cluster terminate bge" in raised.value.message


def test_a_field_of_the_spec_is_checked_before_anything_is_sent() -> None:
    wire = Wire(None)
    with client_of(wire) as client, pytest.raises(errors.BadOption) as raised:
        client.launch_model("m", replica=0)
    assert raised.value.param == "replica"
    assert raised.value.message == "replica cannot be 0: Input should be greater than or equal to 1."
    assert wire.asked == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "model_name is missing."),
        ({"model_name": "m", "gpu_idx": "0,1,2", "replica": 2}, "Allocated gpu must be a multiple of replica."),
        ({"model_name": "m", "download_hub": "x"}, "download_hub cannot be 'x': Input should be 'huggingface' or"),
    ],
)
def test_a_bad_spec_is_one_sentence(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.BadOption) as raised:
        spec_of(fields)
    assert raised.value.message.startswith(message)
    assert "\n" not in raised.value.message


def test_a_body_means_the_spec_it_was_made_from() -> None:
    spec = spec_of({"model_name": "m", "n_gpu": None, "memory": "2GiB", "envs": {"A": "1"}, "normalize": False})
    assert LaunchSpec.model_validate(body_of(spec)) == spec


def test_a_status_of_a_newer_server_is_still_read() -> None:
    said = make_status(state="READY", workers=(make_worker(0, "READY"),)).model_dump(mode="json")
    said["mood"] = "good"
    said["workers"][0]["mood"] = said["wanted"]["mood"] = "better"
    with client_of(Wire(said)) as client:
        assert client.status("m").state == "READY"


def test_a_status_that_is_none_is_an_error_of_ours() -> None:
    with client_of(Wire({"hello": "world"})) as client, pytest.raises(errors.ClusterError, match="ModelStatus"):
        client.status("m")
