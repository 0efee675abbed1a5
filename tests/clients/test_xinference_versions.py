"""Xinference's own client: launches that fail, weights that are deleted, engines and devices by its names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from xinference_client import RESTfulClient

from tests.clients.conftest import TEXTS, assert_same
from tests.cluster.weights.test_removal import downloaded
from tests.deployments.text.embedding.test_bge_m3 import small_bge_m3
from tests.documented import CLIENT, PAGES
from tests.live import LiveCluster


@pytest.fixture
def client(live: LiveCluster) -> Iterator[RESTfulClient]:
    client = RESTfulClient(live.url)
    yield client
    client.close()


def test_a_launch_that_failed_is_listed_and_tried_otherwise_without_terminating_it(client: RESTfulClient) -> None:
    with pytest.raises(RuntimeError, match="told to fail"):
        client.launch_model("echo", "echo", model_uid="xinf-bad", load_error="told to fail")
    (instance,) = client.get_instance_info("echo", "xinf-bad")
    assert instance["status"] == "ERROR" and "xinf-bad" not in client.list_models()
    assert client.launch_model("echo", "echo", model_uid="xinf-bad") == "xinf-bad"
    (instance,) = client.get_instance_info("echo", "xinf-bad")
    assert instance["status"] == "READY" and "xinf-bad" in client.list_models()
    client.terminate_model("xinf-bad")


def test_the_engine_flag_and_a_device_are_taken(client: RESTfulClient, vectors: list[list[float]]) -> None:
    uid = client.launch_model("all-MiniLM-L6-v2", "embedding", model_engine="flag", model_uid="xinf-flag", device="cpu")
    answer = client.get_model(uid).create_embedding(TEXTS)
    assert_same([row["embedding"] for row in answer["data"]], vectors)
    client.terminate_model(uid)


@pytest.mark.documented(PAGES, "embeddings: sparse by the engine flag")
def test_the_engine_flag_answers_with_sparse_vectors(client: RESTfulClient, tmp_path: Path) -> None:
    asked = {"model_engine": "flag", "model_path": str(small_bge_m3(tmp_path)), "model_uid": "xinf-m3"}
    model = client.get_model(client.launch_model("bge-m3", "embedding", **asked))
    for name in ("return_sparse", "return_parse"):
        (row,) = model.create_embedding("tea and bread", **{name: True})["data"]
        assert row["object"] == "sparse_embedding" and all(weight > 0 for weight in row["embedding"].values())
    assert len(model.create_embedding("tea and bread")["data"][0]["embedding"]) == 32
    client.terminate_model("xinf-m3")


@pytest.mark.documented(CLIENT, "list_cached_models", "list_deletable_models", "confirm_and_remove_model")
def test_weights_are_deleted(live: LiveCluster, client: RESTfulClient) -> None:
    cache = downloaded(live.home, "c1", model_safetensors="weights")
    assert "c1" in [row["model_version"] for row in client.list_cached_models()]
    (path,) = client.list_deletable_models("c1")["paths"]
    assert Path(path).name == "model.safetensors"
    assert client.confirm_and_remove_model("c1") is True
    assert not cache.folder.exists()
