"""Xinference's own client: the whole life of a model, sync and async."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from xinference_client import AsyncRESTfulClient, RESTfulClient

from tests.clients.conftest import DOCUMENTS, QUERY, TEXTS, assert_same
from tests.documented import CLIENT
from tests.live import ROOT, LiveCluster, until

CE_TINY = ROOT / "deployments" / "text" / "rerank" / "ce-tiny"


@pytest.fixture
def client(live: LiveCluster) -> Iterator[RESTfulClient]:
    client = RESTfulClient(live.url)
    before = client.list_models().keys()
    yield client
    left = client.list_models().keys() - before
    client.close()
    assert not left, "a test left models behind"


def custom_reranker(name: str, folder: Path = CE_TINY) -> str:
    spec = {"version": 2, "model_name": name, "language": ["en"], "max_tokens": 512, "type": "normal"}
    return json.dumps({**spec, "model_specs": [{"model_format": "pytorch", "model_uri": f"file://{folder}"}]})


@pytest.mark.documented(CLIENT, "launch_model", "list_models", "describe_model", "terminate_model", "infer")
def test_a_model_lives_from_launch_to_terminate(client: RESTfulClient) -> None:
    uid = client.launch_model("echo", model_type="echo", model_uid="xinf-echo", replica=1, n_gpu=None, steps=7)
    assert uid == "xinf-echo"
    assert client.list_models()[uid]["model_name"] == "echo"
    description = client.describe_model(uid)
    # Its client opens what Xinference has no type for as one that takes anything.
    assert (description["model_type"], description["cluster_type"]) == ("flexible", "echo") and description[
        "replica"
    ] == 1
    assert description["address"] and description["accelerators"] == []
    assert description["id"] == uid
    # Arguments are items, and several may be one list.
    model = client.get_model(uid)
    assert model.infer("a", {"b": 1}) == model.infer(["a", {"b": 1}]) == ["a", {"b": 1}]
    with pytest.raises(RuntimeError, match="An item is bad"):
        model.infer("bad")
    client.terminate_model(uid)
    assert uid not in client.list_models()
    with pytest.raises(RuntimeError, match="Model not found in the model list, uid: xinf-echo"):
        client.describe_model(uid)
    with pytest.raises(RuntimeError, match="Model not found in the model list, uid: xinf-echo"):
        client.terminate_model(uid)


@pytest.mark.documented(CLIENT, "get_model")
def test_a_model_is_opened_by_any_of_its_names(
    client: RESTfulClient, embedder: str, vectors: list[list[float]]
) -> None:
    for name in ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"):
        assert_same([row["embedding"] for row in client.get_model(name).create_embedding(TEXTS)["data"]], vectors)


def test_a_model_is_managed_by_any_of_its_names(client: RESTfulClient) -> None:
    names = ["xinf/alias", "ce-tiny-alias"]
    uid = client.launch_model("vectors", "echo", model_uid="xinf-named", aliases=names)
    for name in names:
        assert client.get_launch_model_progress(name)["progress"] == 1.0
        assert client.describe_model(name)["id"] == uid
        with pytest.raises(RuntimeError, match="not launching any more"):
            client.cancel_launch_model(name)
        client.abort_request(name, "xinf-none")
    assert client.add_model_replica(names[0])["replica_model_uid"] == "xinf-named-rep1"
    assert client.terminate_model_replica(names[0], 1) == 1
    client.terminate_model(names[0])
    assert uid not in client.list_models()


def test_a_real_model_takes_launch_options(client: RESTfulClient, vectors: list[list[float]]) -> None:
    uid = client.launch_model(
        "all-MiniLM-L6-v2",
        model_type="embedding",
        model_uid="xinf-short",
        model_engine="sentence_transformers",
        model_format="pytorch",
        quantization="none",
        dimensions=64,
    )
    assert client.describe_model(uid)["dimensions"] == 64
    model = client.get_model(uid)
    cut = np.array(vectors)[:, :64]
    answer = model.create_embedding(TEXTS)
    assert_same([row["embedding"] for row in answer["data"]], cut / np.linalg.norm(cut, axis=1, keepdims=True))
    assert answer["model_replica"] == "xinf-short-rep0"
    client.terminate_model(uid)


@pytest.mark.documented(CLIENT, "create_embedding")
def test_embeddings_are_the_same(client: RESTfulClient, embedder: str, vectors: list[list[float]]) -> None:
    model = client.get_model(embedder)
    answer = model.create_embedding(TEXTS)
    assert_same([row["embedding"] for row in answer["data"]], vectors)
    assert answer["object"] == "list" and answer["model"] == embedder
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 3 * 5
    assert_same(model.create_embedding({"text": TEXTS[1]})["data"][0]["embedding"], vectors[1])
    assert_same(model.create_embedding(TEXTS[0], dimensions=384)["data"][0]["embedding"], vectors[0])


def test_sparse_weights_are_by_token_id(client: RESTfulClient, letters: str) -> None:
    model = client.get_model(letters)
    answer = model.create_embedding(["ab"], return_sparse=True)
    assert answer["data"][0]["object"] == "sparse_embedding"
    assert answer["data"][0]["embedding"] == {"1": 0.5, "2": 0.5, "97": 0.5, "98": 0.5}


@pytest.mark.documented(CLIENT, "convert_ids_to_tokens")
def test_ids_become_tokens(client: RESTfulClient, embedder: str) -> None:
    model = client.get_model(embedder)
    assert model.convert_ids_to_tokens([101, 7592, "2088", 102]) == ["[CLS]", "hello", "world", "[SEP]"]
    assert model.convert_ids_to_tokens([[7592], [2088, 102]]) == [["hello"], ["world", "[SEP]"]]


def test_rerank_is_the_same(client: RESTfulClient, reranker: str, scores: dict[int, float]) -> None:
    answer = client.get_model(reranker).rerank(DOCUMENTS, QUERY)
    assert [row["index"] for row in answer["results"]] == list(scores)
    assert_same([row["relevance_score"] for row in answer["results"]], list(scores.values()))
    assert [row["document"] for row in answer["results"]] == [None] * 3
    assert answer["meta"]["tokens"] is None and answer["id"]


@pytest.mark.documented(CLIENT, "rerank")
def test_rerank_takes_all_its_arguments(client: RESTfulClient, reranker: str, scores: dict[int, float]) -> None:
    model = client.get_model(reranker)
    answer = model.rerank(DOCUMENTS, QUERY, top_n=2, return_documents=True, return_len=True, raw_scores=True)
    assert [row["index"] for row in answer["results"]] == list(scores)[:2]
    assert answer["results"][0]["document"] == {"text": DOCUMENTS[1]}
    logits = np.array([row["relevance_score"] for row in answer["results"]])
    assert_same(1 / (1 + np.exp(-logits)), list(scores.values())[:2])
    tokens = answer["meta"]["tokens"]
    assert tokens["input_tokens"] == tokens["output_tokens"] > 3 * 10
    # A document that fits is scored as a whole.
    chunked = model.rerank(DOCUMENTS, QUERY, max_chunks_per_doc=3)
    assert {row["index"]: row["relevance_score"] for row in chunked["results"]} == pytest.approx(scores, abs=1e-5)
    with pytest.raises(RuntimeError, match="rerank does not take mood"):
        model.rerank(DOCUMENTS, QUERY, mood="good")


def test_a_handle_of_a_model_that_went_says_so(client: RESTfulClient) -> None:
    uid = client.launch_model("vectors", model_type="echo", model_uid="xinf-gone")
    client.terminate_model(uid)
    with pytest.raises(RuntimeError, match="Failed to get the model description.*uid: xinf-gone"):
        client.get_model(uid)


ADAPTER = {"lora_list": [{"lora_name": "a", "local_path": "/a"}]}


def test_bad_launches_are_refused_with_the_reason(client: RESTfulClient) -> None:
    for asked, reason in (
        ({"model_name": "no-such-model", "model_type": "embedding"}, "No embedding model is called 'no-such-model'"),
        ({"model_name": "echo", "model_type": "echo", "step": 3}, "There is no option 'step'; did you mean 'steps'"),
        ({"model_name": "echo", "model_type": "echo", "replica": 0}, "replica"),
        ({"model_name": "echo", "model_type": "echo", "gpu_idx": [0, 1, 2], "replica": 2}, "must be a multiple"),
        ({"model_name": "echo", "model_type": "world"}, "model_type 'world' is not served here"),
        ({"model_name": "echo", "model_type": "echo", "peft_model_config": ADAPTER}, "lora_modules"),
        ({"model_name": "echo", "model_type": "echo", "n_gpu": 64}, "fits on no node"),
        ({"model_name": "echo", "model_type": "echo", "load_error": "the file is torn"}, "the file is torn"),
    ):
        with pytest.raises(RuntimeError, match=f"Failed to launch model, detail: .*{reason}"):
            client.launch_model(model_uid="xinf-bad", **asked)
    client.terminate_model("xinf-bad")


@pytest.mark.documented(CLIENT, "get_launch_model_progress", "cancel_launch_model", "get_instance_info")
def test_a_launch_can_be_followed_and_cancelled(client: RESTfulClient, live: LiveCluster) -> None:
    with ThreadPoolExecutor() as threads:
        other = RESTfulClient(live.url)
        launch = threads.submit(other.launch_model, "echo", "echo", model_uid="xinf-slow", load_seconds=30)
        until(lambda: client.get_instance_info("echo", "xinf-slow"), within=10)
        seen = until(lambda: _loading(client.get_launch_model_progress("xinf-slow")), within=20)
        assert 0 < seen["progress"] < 1
        assert seen["replicas"][0]["replica_model_uid"] == "xinf-slow-rep0"
        assert client.get_instance_info("echo", "xinf-slow")[0]["status"] == "CREATING"
        assert "xinf-slow" not in client.list_models()
        client.cancel_launch_model("xinf-slow")
        with pytest.raises(RuntimeError, match="Launch cancelled"):
            launch.result(timeout=10)
        other.close()
    assert client.get_instance_info("echo", "xinf-slow") == []
    with pytest.raises(RuntimeError, match="Fail to cancel launching model, detail: Model not found"):
        client.cancel_launch_model("xinf-slow")


def _loading(progress: dict[str, Any]) -> dict[str, Any] | None:
    return progress if progress["stage"] == "loading" and progress["progress"] > 0 else None


def test_a_ready_model_is_all_done_and_not_cancelled(client: RESTfulClient, embedder: str) -> None:
    progress = client.get_launch_model_progress(embedder)
    assert progress["progress"] == 1.0
    with pytest.raises(RuntimeError, match="not launching any more"):
        client.cancel_launch_model(embedder)


@pytest.mark.documented(CLIENT, "add_model_replica", "terminate_model_replica")
def test_replicas_come_and_go(client: RESTfulClient) -> None:
    uid = client.launch_model("echo", "echo", model_uid="xinf-many")
    assert client.add_model_replica(uid)["replica_model_uid"] == "xinf-many-rep1"
    added = client.add_model_replica(uid, replica=2)
    assert added["replica"] == 2 and [row["replica_id"] for row in added["replicas"]] == [2, 3]

    def instance() -> dict[str, Any]:
        (found,) = client.get_instance_info("echo", uid)
        return found

    until(lambda: [row["status"] for row in instance()["replica_statuses"]] == ["READY"] * 4, within=20)
    assert instance()["replica"] == 4 and instance()["status"] == "READY"
    assert client.terminate_model_replica(uid, 3) == 3
    until(lambda: len(instance()["replica_statuses"]) == 3, within=10)
    with pytest.raises(RuntimeError, match="xinf-many has replicas 0 to 2, not 9"):
        client.terminate_model_replica(uid, 9)
    with pytest.raises(RuntimeError, match="replica_config cannot be given"):
        client.add_model_replica(uid, replica_config={"devices": [{"worker_ip": "1.2.3.4"}]})
    client.terminate_model(uid)


@pytest.mark.documented(
    CLIENT, "register_model", "unregister_model", "list_model_registrations", "get_model_registration"
)
def test_a_custom_model_is_registered_launched_and_forgotten(client: RESTfulClient, scores: dict[int, float]) -> None:
    name = "xinf-own-reranker"
    assert client.register_model("rerank", custom_reranker(name), persist=True) is None
    listed = {row["model_name"]: row["is_builtin"] for row in client.list_model_registrations("rerank")}
    assert listed[name] is False and listed["ce-tiny"] is True
    detailed = {row["model_name"]: row for row in client.list_model_registrations("rerank", detailed=True)}
    assert detailed[name]["max_tokens"] == 512
    registration = client.get_model_registration("rerank", name)
    assert registration["model_specs"][0]["model_uri"] == f"file://{CE_TINY}"
    assert client.query_engine_by_model_name(name, "rerank").keys() >= {"sentence_transformers"}

    uid = client.launch_model(name, model_type="rerank")
    assert uid == name
    answer = client.get_model(uid).rerank(DOCUMENTS, QUERY)
    assert [row["index"] for row in answer["results"]] == list(scores)
    assert_same([row["relevance_score"] for row in answer["results"]], list(scores.values()))
    client.terminate_model(uid)

    assert client.unregister_model("rerank", name) is None
    assert name not in {row["model_name"] for row in client.list_model_registrations("rerank")}
    with pytest.raises(RuntimeError, match=f"Model {name} not found"):
        client.get_model_registration("rerank", name)
    with pytest.raises(RuntimeError, match=f"{name} not found"):
        client.unregister_model("rerank", name)


def test_a_bad_registration_is_refused_with_the_reason(client: RESTfulClient) -> None:
    with pytest.raises(RuntimeError, match="The registration is not JSON"):
        client.register_model("rerank", "{", persist=False)
    with pytest.raises(RuntimeError, match="built-in"):
        client.register_model("rerank", custom_reranker("ce-tiny"), persist=False)


@pytest.mark.documented(CLIENT, "query_engine_by_model_name")
def test_engines_say_what_they_take(client: RESTfulClient) -> None:
    found = client.query_engine_by_model_name("all-MiniLM-L6-v2", model_type="embedding")
    assert found["sentence_transformers"][0]["model_format"] == "pytorch"
    assert client.query_engine_by_model_name("all-MiniLM-L6-v2", model_type=None) == found
    with pytest.raises(RuntimeError, match="no-such-model"):
        client.query_engine_by_model_name("no-such-model", model_type="embedding")


@pytest.mark.documented(CLIENT, "login")
def test_whoever_logs_in_is_let_in(client: RESTfulClient, embedder: str) -> None:
    client.login("me", "a key")
    assert embedder in client.list_models()


@pytest.mark.documented(CLIENT, "get_workers_info", "get_supervisor_info")
def test_the_cluster_tells_of_itself(client: RESTfulClient, live: LiveCluster, embedder: str) -> None:
    (worker,) = client.get_workers_info()
    assert worker["models"][embedder] == "all-MiniLM-L6-v2"
    assert client.get_supervisor_info() == {"supervisor_ip": worker["work-ip"]}
    assert client._get_supervisor_internal_address() == f"127.0.0.1:{live.port}"
    # Weights that come with the installation need no cache.
    assert "all-MiniLM-L6-v2" not in {row["model_name"] for row in client.list_cached_models()}


@pytest.mark.documented(CLIENT, "the same awaited")
def test_the_async_client_does_the_same(
    live: LiveCluster, embedder: str, reranker: str, vectors: list[list[float]], scores: dict[int, float]
) -> None:
    async def live_through() -> None:
        client = AsyncRESTfulClient(live.url)
        try:
            uid = await client.launch_model("echo", model_type="echo", model_uid="axinf-echo", steps=2)
            assert (await client.list_models())[uid]["model_name"] == "echo"
            assert (await client.describe_model(uid))["replica"] == 1
            assert (await client.get_launch_model_progress(uid))["progress"] == 1.0
            assert (await client.add_model_replica(uid))["replica_id"] == 1
            assert await client.terminate_model_replica(uid, 1) == 1
            (instance,) = await client.get_instance_info("echo", uid)
            assert instance["model_uid"] == uid and instance["replica"] == 1
            await client.terminate_model(uid)
            assert uid not in await client.list_models()
            with pytest.raises(RuntimeError, match="uid: axinf-echo"):
                await client.terminate_model(uid)

            slow = asyncio.ensure_future(client.launch_model("echo", "echo", model_uid="axinf-slow", load_seconds=30))
            while not await client.get_instance_info("echo", "axinf-slow"):
                await asyncio.sleep(0.05)
            await client.cancel_launch_model("axinf-slow")
            with pytest.raises(RuntimeError, match="Launch cancelled"):
                await slow

            model = await client.get_model(embedder)
            answers = await asyncio.gather(*(model.create_embedding(text) for text in TEXTS))
            assert_same([answer["data"][0]["embedding"] for answer in answers], vectors)
            assert await model.convert_ids_to_tokens([7592]) == ["hello"]
            ranker = await client.get_model(reranker)
            answer = await ranker.rerank(DOCUMENTS, QUERY, top_n=1, return_documents=True, return_len=True)
            assert [row["index"] for row in answer["results"]] == list(scores)[:1]
            assert answer["results"][0]["document"] == {"text": DOCUMENTS[1]}
            with pytest.raises(RuntimeError, match="rerank does not take mood"):
                await ranker.rerank(DOCUMENTS, QUERY, mood="good")
            await ranker.close()
            await model.close()

            assert await client.register_model("rerank", custom_reranker("axinf-own"), persist=False) is None
            names = {row["model_name"] for row in await client.list_model_registrations("rerank")}
            assert "axinf-own" in names
            assert (await client.get_model_registration("rerank", "axinf-own"))["max_tokens"] == 512
            assert await client.unregister_model("rerank", "axinf-own") is None
            engines = await client.query_engine_by_model_name("ce-tiny", model_type="rerank")
            assert engines["sentence_transformers"][0]["model_name"] == "ce-tiny"
            cached = {row["model_name"] for row in await client.list_cached_models()}
            assert "all-MiniLM-L6-v2" not in cached
            (worker,) = await client.get_workers_info()
            assert (await client.get_supervisor_info())["supervisor_ip"] == worker["work-ip"]
        finally:
            await client.close()

    asyncio.run(live_through())
