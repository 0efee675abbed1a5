"""What LiteLLM's pages about Xinference and Infinity show: its package, and its proxy in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import litellm
import pytest

from cluster.catalog.catalog import Catalog
from tests.clients.conftest import DOCUMENTS, QUERY, TEXTS, assert_same
from tests.clients.packages import installed
from tests.documented import INFINITY, LITELLM
from tests.live import LiveCluster, free_port, until
from tests.painted import opened, painting

#: What the proxy imports beside what its package needs.
PROXY = (
    *("apscheduler==3.11.3", "tzlocal==5.4.5", "pyjwt==2.15.1", "boto3==1.44.8", "botocore==1.44.8"),
    *("s3transfer==0.19.3", "jmespath==1.1.0", "email-validator==2.4.0", "fastapi-sso==0.23.0", "oauthlib==4.0.1"),
)
#: The names of embedding models on its page.
NAMES = (
    *("bge-base-en", "bge-base-en-v1.5", "bge-base-zh", "bge-base-zh-v1.5", "bge-large-en", "bge-large-en-v1.5"),
    *("bge-large-zh", "bge-large-zh-noinstruct", "bge-large-zh-v1.5", "bge-small-en-v1.5", "bge-small-zh"),
    *("bge-small-zh-v1.5", "e5-large-v2", "gte-base", "gte-large", "jina-embeddings-v2-base-en"),
    *("jina-embeddings-v2-small-en", "multilingual-e5-large"),
)
GREETING = "good morning from litellm"
SUNSET = "A beautiful sunset over a calm ocean"


@pytest.fixture(scope="module")
def painter(live: LiveCluster) -> Iterator[str]:
    """It answers to the name that the page has for it."""
    with painting(live, "lite-pages", aliases="stabilityai/stable-diffusion-3.5-large"):
        yield "xinference/stabilityai/stable-diffusion-3.5-large"


@pytest.mark.documented(LITELLM, "embedding, with the address in the environment", "embedding, with api_base")
def test_an_embedding(
    live: LiveCluster, embedder: str, vectors: list[list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = f"xinference/{embedder}"
    answer = litellm.embedding(model=model, api_base=f"{live.url}/v1", input=TEXTS)
    assert_same([row["embedding"] for row in answer.data], vectors)
    monkeypatch.setenv("XINFERENCE_API_BASE", f"{live.url}/v1")
    monkeypatch.setenv("XINFERENCE_API_KEY", "anything")
    (row,) = litellm.embedding(model=model, input=[GREETING]).data
    assert len(row["embedding"]) == len(vectors[0])


@pytest.mark.documented(LITELLM, "the names of the page's embedding models")
def test_every_model_of_its_page_can_be_launched() -> None:
    assert [Catalog.builtin().find(name, "embedding").name for name in NAMES] == list(NAMES)


@pytest.mark.documented(LITELLM, "a picture, with api_base", "a picture, with every option of the page")
def test_a_picture(live: LiveCluster, painter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its package reads the key and the address of the page's environment for embeddings only.
    monkeypatch.setenv("OPENAI_API_KEY", "anything")
    drawn = litellm.image_generation(model=painter, prompt=SUNSET, api_base=f"{live.url}/v1")
    assert opened(drawn.data[0].b64_json).size == (64, 64)
    asked = {"n": 1, "size": "1024x1024", "response_format": "b64_json", "api_base": f"{live.url}/v1"}
    assert opened(litellm.image_generation(model=painter, prompt=SUNSET, **asked).data[0].b64_json).size == (1024, 1024)


@pytest.mark.documented(INFINITY, "rerank by the package", "embedding by the package")
def test_infinity(live: LiveCluster, embedder: str, reranker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFINITY_API_BASE", live.url)
    asked = {"query": "What is the capital of France?", "documents": ["Paris", "London", "Berlin", "Madrid"]}
    answer = litellm.rerank(model=f"infinity/{reranker}", api_base=live.url, **asked)
    assert sorted(row["index"] for row in answer.results) == [0, 1, 2, 3]
    assert {row["document"]["text"] for row in answer.results} == set(asked["documents"])
    (row,) = litellm.embedding(model=f"infinity/{embedder}", api_base=live.url, input=[GREETING]).data
    assert len(row["embedding"]) == 384


@pytest.fixture(scope="module")
def proxy(live: LiveCluster, painter: str, reranker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of LiteLLM's proxy with the settings of both pages."""
    models = [
        {
            "model_name": "custom-infinity-rerank",
            "litellm_params": {"model": f"infinity/{reranker}", "api_key": "none", "api_base": live.url},
        },
        {
            "model_name": "xinference-sd",
            "litellm_params": {"model": painter, "api_base": f"{live.url}/v1", "api_key": "anything"},
            "model_info": {"mode": "image_generation"},
        },
    ]
    # JSON is YAML.
    config: Path = tmp_path_factory.mktemp("proxy") / "config.yaml"
    config.write_text(json.dumps({"model_list": models, "general_settings": {"master_key": "sk-1234"}}))
    port = free_port()
    words = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-c", "from litellm import run_server; run_server()", *words],
        env={**os.environ, "PYTHONPATH": str(installed(*PROXY, dependencies=False))},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: process.poll() is not None or _lives(url), within=90, why="the proxy does not start")
        yield url
    finally:
        process.terminate()
        process.wait(20)


def _lives(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/liveliness", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
@pytest.mark.documented(LITELLM, "the proxy draws")
@pytest.mark.documented(INFINITY, "rerank by the proxy")
def test_its_proxy_ranks_and_draws(proxy: str, scores: dict[int, float]) -> None:
    key = {"Authorization": "Bearer sk-1234"}
    asked = {"model": "custom-infinity-rerank", "query": QUERY, "documents": DOCUMENTS, "top_n": 3}
    answer = httpx.post(f"{proxy}/rerank", json=asked, headers=key, timeout=60)
    assert answer.status_code == 200, answer.text
    assert {row["index"]: row["relevance_score"] for row in answer.json()["results"]} == pytest.approx(scores, abs=1e-5)
    body = {"model": "xinference-sd", "prompt": SUNSET, "n": 1, "size": "1024x1024", "response_format": "url"}
    drawn = httpx.post(f"{proxy}/v1/images/generations", json=body, headers=key, timeout=60)
    assert drawn.status_code == 200, drawn.text
    assert opened(httpx.get(drawn.json()["data"][0]["url"]).content).size == (1024, 1024)
