"""Xinference's own command line: every option of a launch, and the other commands that its documentation shows. Models
have the names that the documentation gives them, and small weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from xinference_client import RESTfulClient

from tests.clients.conftest import DOCUMENTS, QUERY, TEXTS, assert_same
from tests.clients.test_xinference_client import CE_TINY, custom_reranker
from tests.cluster.weights.test_removal import downloaded
from tests.documented import COMMANDS, LAUNCH, PAGES
from tests.downloaded import put_model
from tests.live import LiveCluster
from tests.small_models import MINILM
from tests.xinference_command import xinference

CPU = ("--n-gpu", "none")


@pytest.fixture
def client(live: LiveCluster) -> Iterator[RESTfulClient]:
    client = RESTfulClient(live.url)
    yield client
    client.close()


@pytest.mark.documented(LAUNCH, "--model-name", "--model-type", "--model-engine", "--model-uid", "--size-in-billions")
@pytest.mark.documented(LAUNCH, "--model-format", "--quantization", "--n-worker", "--n-gpu", "--worker-ip", "--api-key")
@pytest.mark.documented(LAUNCH, "--trust-remote-code", "--disable-virtual-env", "--env", "--endpoint", "--download_hub")
@pytest.mark.documented(LAUNCH, "--request_limits")
@pytest.mark.documented(PAGES, "launching: environment variables")
def test_an_embedding_model_is_launched_with_every_option(
    live: LiveCluster, client: RESTfulClient, vectors: list[list[float]]
) -> None:
    put_model(live.home, "gte-base", "embedding", MINILM)
    what = ["-n", "gte-base", "-t", "embedding", "-u", "cli-gte", "-en", "sentence_transformers", "-f", "pytorch"]
    what += ["-s", "1_5", "-q", "none", "--download_hub", "huggingface", "--request_limits", "8"]
    how = ["--n-worker", "1", *CPU, "--worker-ip", "127.0.0.1", "--trust-remote-code", "true", "--disable-virtual-env"]
    how += ["--env", "OMP_NUM_THREADS", "1", "--env", "MKL_NUM_THREADS", "1"]
    how += ["--endpoint", live.url, "--api-key", "sk-any"]
    try:
        assert "Model uid: cli-gte" in xinference("http://127.0.0.1:1", "launch", *what, *how)
        answer = client.get_model("cli-gte").create_embedding(TEXTS)
        assert_same([row["embedding"] for row in answer["data"]], vectors)
        assert client.describe_model("cli-gte")["model_hub"] == "huggingface"
    finally:
        client.terminate_model("cli-gte")


@pytest.mark.documented(
    PAGES, "launching: gte-base by command", "using: a model is terminated, by command, curl and client"
)
@pytest.mark.documented(PAGES, "using: models that run, by command, curl and client")
@pytest.mark.documented(COMMANDS, "list", "terminate", "login")
def test_a_model_is_launched_listed_and_terminated(live: LiveCluster, client: RESTfulClient, reranker: str) -> None:
    put_model(live.home, "gte-base", "embedding", MINILM)
    xinference(live.url, "login", "--username", "me", "--password", "any")
    words = ["--model-name", "gte-base", "--model-type", "embedding", "--endpoint", live.url]
    assert "Model uid: gte-base" in xinference(live.url, "launch", *words)
    listed = xinference(live.url, "list")
    assert {"gte-base", reranker} <= set(listed.split()) and "Dimensions" in listed
    assert client.list_models().keys() == {row["id"] for row in live.get("/v1/models").json()["data"]}
    xinference(live.url, "terminate", "--model-uid", "gte-base")
    assert "gte-base" not in client.list_models()


@pytest.mark.documented(LAUNCH, "--replica", "--model-path", "--enable-virtual-env", "--virtual-env-package")
@pytest.mark.documented(LAUNCH, "--virtual-env-find-link", "--replica-config")
def test_replicas_a_folder_and_packages_are_taken(
    live: LiveCluster, client: RESTfulClient, scores: dict[int, float], tmp_path: Path
) -> None:
    venv = ["--enable-virtual-env", "-vp", "numpy", "-vp", "torch>=2", "--virtual-env-find-link", str(tmp_path)]
    named = ["-n", "ce-tiny", "-t", "rerank", "-mp", str(CE_TINY)]
    xinference(live.url, "launch", *named, "-u", "cli-two", "-r", "2", *CPU, *venv)
    places = [{"devices": [{"worker_ip": "127.0.0.1", "n_gpu": "auto"}]}]
    xinference(live.url, "launch", *named, "-u", "cli-placed", "--replica-config", json.dumps(places))
    try:
        (instance,) = client.get_instance_info("", "cli-two")
        assert [row["status"] for row in instance["replica_statuses"]] == ["READY"] * 2
        for uid in ("cli-two", "cli-placed"):
            rows = client.get_model(uid).rerank(DOCUMENTS, QUERY)["results"]
            assert_same([row["relevance_score"] for row in rows], list(scores.values()))
    finally:
        client.terminate_model("cli-two")
        client.terminate_model("cli-placed")


def test_packages_that_are_not_installed_are_refused(live: LiveCluster) -> None:
    words = ["launch", "-n", "ce-tiny", "-t", "rerank", "--enable-virtual-env", "-vp", "torch<1"]
    with pytest.raises(
        AssertionError, match="asks for 'torch<1', which is not installed, and a launch installs nothing"
    ):
        xinference(live.url, *words)


@pytest.mark.documented(COMMANDS, "registrations")
@pytest.mark.documented(PAGES, "client: embedding models are listed", "client: image models are listed")
@pytest.mark.documented(PAGES, "using: registrations, by command, curl and client")
def test_models_that_can_be_launched_are_listed(live: LiveCluster, client: RESTfulClient) -> None:
    for type, shown in (
        ("embedding", ("bge-base-en-v1.5", "768")),
        ("rerank", ("bge-reranker-v2-m3",)),
        ("image", ("stable-diffusion-v1.5", "stable_diffusion", "GOT-OCR2_0", "ocr")),
        ("LLM", ()),
    ):
        printed = xinference(live.url, "registrations", "-t", type).split()
        assert set(shown) <= set(printed) and "Is-built-in" in printed
        by_curl = live.get(f"/v1/model_registrations/{type}").json()
        assert client.list_model_registrations(model_type=type) == by_curl
        assert {row["model_name"] for row in by_curl} <= set(printed)


@pytest.mark.documented(COMMANDS, "register", "unregister")
def test_a_model_is_registered_and_forgotten(live: LiveCluster, client: RESTfulClient, tmp_path: Path) -> None:
    file = tmp_path / "model.json"
    file.write_text(custom_reranker("cli-own"))
    xinference(live.url, "register", "--model-type", "rerank", "--file", str(file), "--persist")
    assert "cli-own" in xinference(live.url, "registrations", "-t", "rerank")
    xinference(live.url, "unregister", "--model-type", "rerank", "--model-name", "cli-own")
    assert "cli-own" not in {row["model_name"] for row in client.list_model_registrations("rerank")}


@pytest.mark.documented(COMMANDS, "cached", "remove-cache")
def test_weights_are_listed_and_deleted(live: LiveCluster) -> None:
    cache = downloaded(live.home, "c2", model_safetensors="weights")
    assert "a/b" in xinference(live.url, "cached")
    xinference(live.url, "remove-cache", "--model_version", "c2", "--check")
    assert not cache.folder.exists()
