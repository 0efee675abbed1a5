"""The calls: what goes over the wire, and that the sync and the async client are the same."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from collections.abc import Callable
from typing import Any

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
from tests.cluster.client.wire import Wire, client_of, result_of_async
from tests.cluster.statuses import make_status

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
    "doze": (
        lambda c: c.doze_model("m"),
        ("POST", "/v1/models/m/doze", {}, None),
        {"model_uid": "m", "state": "DOZING", "reason": "somebody let it doze"},
        {"model_uid": "m", "state": "DOZING", "reason": "somebody let it doze"},
    ),
    "sleep": (
        lambda c: c.sleep_model("m"),
        ("POST", "/v1/models/m/sleep", {}, None),
        {"model_uid": "m", "state": "ASLEEP", "reason": "somebody sent it to sleep"},
        {"model_uid": "m", "state": "ASLEEP", "reason": "somebody sent it to sleep"},
    ),
    "wake": (
        lambda c: c.wake_model("m", wait_ready=False),
        ("POST", "/v1/models/m/wake", {"wait_ready": "false"}, None),
        {"model_uid": "m", "state": "LOADING", "reason": ""},
        {"model_uid": "m", "state": "LOADING", "reason": ""},
    ),
    "cells": (
        lambda c: c.cells(),
        ("GET", "/v1/cluster/cells", {}, None),
        [{"cell": "a", "live": True}],
        [{"cell": "a", "live": True}],
    ),
    "bounds": (
        lambda c: c.scale("m", min=0, max=4, target_queue_s=0.5),
        ("POST", "/v1/models/m/scale", {}, {"min": 0, "max": 4, "target_queue_s": 0.5}),
        {"model_uid": "m", "replica": 1},
        {"model_uid": "m", "replica": 1},
    ),
    "scale of": (
        lambda c: c.scale_of("m"),
        ("GET", "/v1/models/m/scale", {}, None),
        {"replica": 1, "queue_s": 0.5},
        {"replica": 1, "queue_s": 0.5},
    ),
    "restart": (
        lambda c: c.restart_model("m", "stuck", wait_ready=False),
        ("POST", "/v1/models/m/restart", {"wait_ready": "false"}, {"reason": "stuck"}),
        {"model_uid": "m", "generation": 2, "state": "LOADING"},
        {"model_uid": "m", "generation": 2, "state": "LOADING"},
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
    "stop": (
        lambda c: c.stop_request("r/1", "m"),
        ("DELETE", "/v1/requests/r%2F1", {"model": "m"}, None),
        {"stopped": 1},
        1,
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
    "delete_cached": (
        lambda c: c.delete_cached_models("v1"),
        ("DELETE", "/v1/cache/models", {"model_version": "v1"}, None),
        {"result": True},
        True,
    ),
    "cached": (
        lambda c: c.list_cached_models("x"),
        ("GET", "/v1/cache/models", {"model_name": "x"}, None),
        {"list": [{"path": "/p"}]},
        [{"path": "/p"}],
    ),
    "all events": (
        lambda c: c.all_events(10, before=7, uid="m", level="WARNING"),
        ("GET", "/v1/events", {"limit": "10", "before": "7", "uid": "m", "level": "WARNING"}, None),
        [{"id": 6}],
        [{"id": 6}],
    ),
    "history": (
        lambda c: c.history("m", ["p50", "p99"], since=7, step_s=15),
        ("GET", "/v1/history", {"model": "m", "series": "p50,p99", "since": "7", "step_s": "15"}, None),
        {"begin": 15},
        {"begin": 15},
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
        names = ["uid", "replica", "min", "max", "target_queue_s"]
        assert list(inspect.signature(client.scale).parameters) == names
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


# The package


def test_importing_the_package_brings_in_nothing_heavy() -> None:
    script = "import sys, cluster; print([m for m in ('ray', 'torch', 'fastapi', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_error_is_exported() -> None:
    names = {kind.__name__ for kind in errors.every_error().values() if kind.__module__ == "cluster.errors"}
    assert names | {"AsyncClient", "Client", "LaunchSpec"} == set(cluster.__all__)
