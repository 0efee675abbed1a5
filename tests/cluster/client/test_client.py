"""The calls: what goes over the wire, and that the sync and the async client are the same."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

import cluster
from cluster import AsyncClient, Client, LaunchSpec, errors
from cluster.client import (
    AsyncEmbeddingModel,
    AsyncImageModel,
    AsyncRerankModel,
    AsyncTextModel,
    EmbeddingModel,
    ImageModel,
    LanguageModel,
    Model,
    RerankModel,
    TextModel,
)
from cluster.client.http import call
from cluster.client.launches import body_of, spec_of
from tests.cluster.client.fake_server import to_response
from tests.cluster.statuses import make_status, make_worker

URL = "http://127.0.0.1:9997"


class Wire:
    """A transport that answers from a list and records the requests."""

    def __init__(self, *answers: Any, log_tail: tuple[str, ...] = ()) -> None:
        self.answers = list(answers)
        self.log_tail = log_tail
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.keys: list[str | None] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        self.asked.append(
            (request.method, request.url.raw_path.decode().partition("?")[0], dict(request.url.params), body)
        )
        self.keys.append(request.headers.get("authorization"))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception) and not isinstance(answer, errors.ClusterError):
            raise answer
        if isinstance(answer, httpx.Response):
            return answer
        status, headers, said = to_response(answer, self.log_tail)
        return httpx.Response(status, headers=headers, json=said)


def client_of(wire: Wire, **options: Any) -> Client:
    return Client(URL, transport=httpx.MockTransport(wire), **options)


STATUS = make_status("m", "READY", version=3)

#: A call, the request it makes, what the server answers, what the caller gets.
CALLS: dict[str, tuple[Callable[[Any], Any], tuple[str, str, dict[str, str], Any], Any, Any]] = {
    "submit": (
        lambda c: c.submit(LaunchSpec(model_name="m", replica=2, options={"normalize": True})),
        ("POST", "/v1/models", {"wait_ready": "false"}, {"model_name": "m", "replica": 2, "normalize": True}),
        {"model_uid": "m", "generation": 4},
        ("m", 4),
    ),
    "check": (
        lambda c: c.check(LaunchSpec(model_name="m")),
        ("POST", "/v1/models", {"dry_run": "true"}, {"model_name": "m"}),
        {"fits": True, "claim_bytes": 5},
        {"fits": True, "claim_bytes": 5},
    ),
    "launch": (
        lambda c: c.launch_model("m", "embedding", wait_ready=False, n_gpu=None, gpu_idx="0,1", cpu_offload=True),
        (
            "POST",
            "/v1/models",
            {"wait_ready": "false"},
            {"model_name": "m", "model_type": "embedding", "n_gpu": None, "gpu_idx": [0, 1], "cpu_offload": True},
        ),
        {"model_uid": "m", "generation": 1},
        "m",
    ),
    "list": (
        lambda c: c.list_models(),
        ("GET", "/v1/models", {}, None),
        {"object": "list", "data": [{"id": "m", "model_type": "embedding"}]},
        {"m": {"id": "m", "model_type": "embedding"}},
    ),
    "describe": (lambda c: c.describe_model("m"), ("GET", "/v1/models/m", {}, None), {"replica": 1}, {"replica": 1}),
    "status": (lambda c: c.status("m"), ("GET", "/v1/models/m/status", {}, None), STATUS, STATUS),
    "status newer": (
        lambda c: c.status("m", version=2, wait_s=5),
        ("GET", "/v1/models/m/status", {"version": "2", "wait": "5"}, None),
        STATUS,
        STATUS,
    ),
    "statuses": (lambda c: c.statuses(), ("GET", "/v1/statuses", {}, None), [STATUS], [STATUS]),
    "terminate": (lambda c: c.terminate_model("m"), ("DELETE", "/v1/models/m", {}, None), None, None),
    "progress": (
        lambda c: c.get_launch_model_progress("m"),
        ("GET", "/v1/models/m/progress", {}, None),
        {"progress": 0.5},
        {"progress": 0.5},
    ),
    "cancel": (lambda c: c.cancel_launch_model("m"), ("POST", "/v1/models/m/cancel", {}, None), None, None),
    "scale": (
        lambda c: c.scale("m", 3),
        ("POST", "/v1/models/m/scale", {}, {"replica": 3}),
        {"model_uid": "m", "replica": 3},
        {"model_uid": "m", "replica": 3},
    ),
    "mark_node": (
        lambda c: c.mark_node("a/b", "cordoned"),
        ("PUT", "/v1/cluster/nodes/a%2Fb", {}, {"mark": "cordoned"}),
        {"name": "a/b"},
        {"name": "a/b"},
    ),
    "events": (lambda c: c.events("m"), ("GET", "/v1/models/m/events", {}, None), [{"event_ts": 1}], [{"event_ts": 1}]),
    "logs": (lambda c: c.logs("m", 5), ("GET", "/v1/models/m/logs", {"lines": "5"}, None), {"lines": ["a"]}, ["a"]),
    "instances": (
        lambda c: c.get_instance_info(model_uid="m"),
        ("GET", "/v1/models/instances", {"model_uid": "m"}, None),
        [{"status": "READY"}],
        [{"status": "READY"}],
    ),
    "replicas": (lambda c: c.list_model_replicas("m"), ("GET", "/v1/models/m/replicas", {}, None), [], []),
    "add replica": (
        lambda c: c.add_model_replica("m"),
        ("POST", "/v1/models/m/replicas", {}, {}),
        {"replica_id": 1},
        {"replica_id": 1},
    ),
    "terminate replica": (
        lambda c: c.terminate_model_replica("m", 1),
        ("DELETE", "/v1/models/m/replicas/1", {}, None),
        {"remaining_replicas": 1},
        {"remaining_replicas": 1},
    ),
    "abort": (
        lambda c: c.abort_request("m", "r/1"),
        ("POST", "/v1/models/m/requests/r%2F1/abort", {}, {"block_duration": 30}),
        {"msg": "DONE"},
        {"msg": "DONE"},
    ),
    "progress of a request": (
        lambda c: c.get_progress("r/1"),
        ("GET", "/v1/requests/r%2F1/progress", {}, None),
        {"progress": 0.5},
        {"progress": 0.5},
    ),
    "image jobs": (
        lambda c: c.list_image_jobs(),
        ("GET", "/v1/images/jobs", {}, None),
        {"data": [{"id": "job-1"}]},
        [{"id": "job-1"}],
    ),
    "apply": (
        lambda c: c.apply([{"model_name": "m", "normalize": True}, LaunchSpec(model_name="n")], dry_run=True),
        (
            "POST",
            "/v1/models/apply",
            {},
            {"models": [{"model_name": "m", "normalize": True}, {"model_name": "n"}], "prune": True, "dry_run": True},
        ),
        {"changes": [{"uid": "m", "change": "launch"}]},
        [{"uid": "m", "change": "launch"}],
    ),
    "export": (
        lambda c: c.export(),
        ("GET", "/v1/models/export", {}, None),
        {"models": [{"model_name": "m"}]},
        [{"model_name": "m"}],
    ),
    "register": (
        lambda c: c.register_model("embedding", '{"model_name":"x"}', True),
        (
            "POST",
            "/v1/model_registrations/embedding",
            {},
            {"model": '{"model_name":"x"}', "worker_ip": None, "persist": True},
        ),
        None,
        None,
    ),
    "unregister": (
        lambda c: c.unregister_model("embedding", "a/b c"),
        ("DELETE", "/v1/model_registrations/embedding/a%2Fb%20c", {}, None),
        None,
        None,
    ),
    "registrations": (
        lambda c: c.list_model_registrations("rerank"),
        ("GET", "/v1/model_registrations/rerank", {"detailed": "false"}, None),
        [{"model_name": "x"}],
        [{"model_name": "x"}],
    ),
    "registration": (
        lambda c: c.get_model_registration("rerank", "x"),
        ("GET", "/v1/model_registrations/rerank/x", {}, None),
        {"model_name": "x"},
        {"model_name": "x"},
    ),
    "engines": (
        lambda c: c.query_engine_by_model_name("x"),
        ("GET", "/v1/engines/x", {}, None),
        {"torch": []},
        {"torch": []},
    ),
    "engines of a type": (
        lambda c: c.query_engine_by_model_name("x", "rerank"),
        ("GET", "/v1/engines/rerank/x", {}, None),
        {"torch": "no"},
        {"torch": "no"},
    ),
    "cached": (
        lambda c: c.list_cached_models("x"),
        ("GET", "/v1/cache/models", {"model_name": "x"}, None),
        {"list": [{"path": "/p"}]},
        [{"path": "/p"}],
    ),
    "info": (lambda c: c.cluster_info(), ("GET", "/v1/cluster/info", {"detailed": "false"}, None), [{}], [{}]),
    "version": (lambda c: c.version(), ("GET", "/v1/cluster/version", {}, None), {"version": "1.2"}, "1.2"),
    "auth": (lambda c: c.asks_for_keys(), ("GET", "/v1/cluster/auth", {}, None), {"auth": True}, True),
    "create key": (
        lambda c: c.create_key("ci", ["infer"], ["m"]),
        ("POST", "/v1/keys", {}, {"name": "ci", "scopes": ["infer"], "models": ["m"]}),
        {"id": "k1", "key": "s"},
        {"id": "k1", "key": "s"},
    ),
    "keys": (lambda c: c.list_keys(), ("GET", "/v1/keys", {}, None), [{"id": "k1"}], [{"id": "k1"}]),
    "revoke": (lambda c: c.revoke_key("k1"), ("DELETE", "/v1/keys/k1", {}, None), None, None),
    "embed": (
        lambda c: handle(c, "embedding").create_embedding(["a"], dimensions=4),
        ("POST", "/v1/embeddings", {}, {"model": "m", "input": ["a"], "dimensions": 4}),
        {"data": []},
        {"data": []},
    ),
    "tokens": (
        lambda c: handle(c, "embedding").convert_ids_to_tokens([1, 2]),
        ("POST", "/v1/convert_ids_to_tokens", {}, {"model": "m", "input": [1, 2]}),
        ["a", "b"],
        ["a", "b"],
    ),
    "embed_sparse": (
        lambda c: handle(c, "embedding").embed_sparse("a"),
        ("POST", "/v1/embeddings", {}, {"model": "m", "input": "a", "return_sparse": True}),
        {"data": []},
        {"data": []},
    ),
    "embed_tokens": (
        lambda c: handle(c, "embedding").embed_tokens(["a"], dimensions=4),
        ("POST", "/v1/embeddings", {}, {"model": "m", "input": ["a"], "return_multivector": True, "dimensions": 4}),
        {"data": []},
        {"data": []},
    ),
    "classify": (
        lambda c: handle(c, "rerank").classify(["a"], raw_scores=True),
        ("POST", "/classify", {}, {"model": "m", "input": ["a"], "raw_scores": True}),
        {"data": []},
        {"data": []},
    ),
    "score": (
        lambda c: handle(c, "rerank").score("a", ["b", "c"]),
        ("POST", "/v1/score", {}, {"model": "m", "text_1": "a", "text_2": ["b", "c"]}),
        {"data": []},
        {"data": []},
    ),
    "similarity": (
        lambda c: handle(c, "embedding").similarity("a", ["b"], prompt_name="query"),
        (
            "POST",
            "/similarity",
            {},
            {
                "model": "m",
                "inputs": {"source_sentence": "a", "sentences": ["b"]},
                "parameters": {"prompt_name": "query"},
            },
        ),
        [0.5],
        [0.5],
    ),
    "tokenize": (
        lambda c: handle(c, "embedding").tokenize("a", add_special_tokens=False),
        ("POST", "/tokenize", {}, {"model": "m", "inputs": "a", "add_special_tokens": False}),
        [[]],
        [[]],
    ),
    "decode": (
        lambda c: handle(c, "embedding").decode([1, 2]),
        ("POST", "/decode", {}, {"model": "m", "ids": [1, 2]}),
        ["a"],
        ["a"],
    ),
    "rerank": (
        lambda c: handle(c, "rerank").rerank(["a", "b"], "q", top_n=1, lane="bulk"),
        ("POST", "/v1/rerank", {}, {"model": "m", "query": "q", "documents": ["a", "b"], "top_n": 1, "lane": "bulk"}),
        {"results": []},
        {"results": []},
    ),
    "infer": (
        lambda c: handle(c, "image").infer("/v1/images/generations", prompt="a tree"),
        ("POST", "/v1/images/generations", {}, {"model": "m", "prompt": "a tree"}),
        {"data": []},
        {"data": []},
    ),
}


def handle(client: Client | AsyncClient, model_type: str) -> Any:
    return client.handle("m", {"model_type": model_type})


async def result_of_async(make: Callable[[Any], Any], wire: Wire) -> Any:
    async with AsyncClient(URL, transport=httpx.MockTransport(wire)) as client:
        return await make(client)


@pytest.mark.parametrize(("make", "request_", "answer", "result"), CALLS.values(), ids=CALLS)
def test_both_clients_make_the_same_request_and_give_the_same_result(
    make: Any, request_: Any, answer: Any, result: Any
) -> None:
    wire, async_wire = Wire(answer), Wire(answer)
    with client_of(wire) as client:
        assert make(client) == result
    assert asyncio.run(result_of_async(make, async_wire)) == result
    assert wire.asked == async_wire.asked == [request_]


@pytest.mark.parametrize(("make", "request_", "answer", "result"), CALLS.values(), ids=CALLS)
def test_both_clients_raise_what_the_server_raised(make: Any, request_: Any, answer: Any, result: Any) -> None:
    refusal = errors.Overloaded("The queue of m is full.", "model", 2.5)
    with client_of(Wire(refusal)) as client, pytest.raises(errors.Overloaded) as raised:
        make(client)
    with pytest.raises(errors.Overloaded) as raised_async:
        asyncio.run(result_of_async(make, Wire(refusal)))
    for error in (raised.value, raised_async.value):
        assert (error.message, error.retry_after_s, error.param) == ("The queue of m is full.", 2.5, "model")


def test_every_call_is_in_the_table() -> None:
    described = {name for kind in (Client, EmbeddingModel, RerankModel) for name in dir(kind) if is_call(kind, name)}
    made = {name for make, *_ in CALLS.values() for name in described if name in make.__code__.co_names} | {
        "get_model",
        "get_image_job",
        "wait_until_ready",
    }
    assert described == made


def is_call(kind: type, name: str) -> bool:
    return isinstance(getattr(kind, name), call)


def test_signatures_and_docstrings_are_those_of_the_description() -> None:
    with client_of(Wire(None)) as client:
        assert list(inspect.signature(client.scale).parameters) == ["uid", "replica"]
        assert client.scale.__name__ == "scale"
        assert "does not" not in (client.submit.__doc__ or "") and client.submit.__doc__ == Client.submit.__doc__


@pytest.mark.parametrize(
    ("model_type", "kind"),
    [
        ("embedding", EmbeddingModel),
        ("rerank", RerankModel),
        ("classify", TextModel),
        ("image", ImageModel),
        ("llm", LanguageModel),
        ("audio", Model),
    ],
)
def test_get_model_is_the_handle_of_its_type(model_type: str, kind: type) -> None:
    wire = Wire({"model_type": model_type, "replica": 1})
    with client_of(wire) as client:
        model = client.get_model("m")
    assert type(model) is kind
    assert model.uid == "m"  # type: ignore[attr-defined]
    assert model.description == {"model_type": model_type, "replica": 1}  # type: ignore[attr-defined]
    assert len(wire.asked) == 1


@pytest.mark.parametrize(
    ("model_type", "kind"),
    [
        ("embedding", AsyncEmbeddingModel),
        ("rerank", AsyncRerankModel),
        ("classify", AsyncTextModel),
        ("image", AsyncImageModel),
    ],
)
def test_get_model_of_the_async_client_is_awaited_too(model_type: str, kind: type) -> None:
    assert type(asyncio.run(result_of_async(lambda c: c.get_model("m"), Wire({"model_type": model_type})))) is kind


def test_the_key_goes_with_every_request() -> None:
    wire = Wire({"version": "1"})
    with client_of(wire, api_key="s3cret") as client:
        client.version()
    with client_of(wire) as client:
        client.version()
    assert wire.keys == ["Bearer s3cret", None]


# Waiting


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


# Specs


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


# The package


def test_importing_the_package_brings_in_nothing_heavy() -> None:
    script = "import sys, cluster; print([m for m in ('ray', 'torch', 'fastapi', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_error_is_exported() -> None:
    names = {kind.__name__ for kind in errors.every_error().values() if kind.__module__ == "cluster.errors"}
    assert names | {"AsyncClient", "Client", "LaunchSpec"} == set(cluster.__all__)


@pytest.fixture(autouse=True)
def no_coroutine_is_left_unawaited(recwarn: pytest.WarningsRecorder) -> Iterator[None]:
    yield
    assert [w for w in recwarn if "never awaited" in str(w.message)] == []
