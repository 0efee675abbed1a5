"""The ollama package against its routes for embedding models."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import numpy as np
import ollama
import pytest

from cluster.status import ModelState
from tests.clients.conftest import TEXTS, assert_same
from tests.live import LiveCluster, until


@pytest.fixture
def client(live: LiveCluster) -> ollama.Client:
    return ollama.Client(host=live.url)


def test_embeddings_are_the_same(client: ollama.Client, embedder: str, vectors: list[list[float]]) -> None:
    answer = client.embed(model=embedder, input=TEXTS)
    assert_same(answer.embeddings, vectors)
    assert answer.model == embedder and answer.prompt_eval_count > 3 * 5 and answer.total_duration > 0
    assert_same(client.embed(model=f"{embedder}:latest", input=TEXTS[0]).embeddings, vectors[:1])
    assert_same(client.embeddings(model=embedder, prompt=TEXTS[0]).embedding, vectors[0])


def test_vectors_have_length_one_whatever_their_dimensions(client: ollama.Client, embedder: str) -> None:
    (short,) = client.embed(model=embedder, input=TEXTS[0], dimensions=64).embeddings
    assert len(short) == 64 and np.linalg.norm(short) == pytest.approx(1, abs=1e-5)


def test_no_texts_are_no_vectors(client: ollama.Client, embedder: str) -> None:
    assert list(client.embed(model=embedder, input=[]).embeddings) == []


def test_a_text_that_may_not_be_cut_is_refused(client: ollama.Client, embedder: str) -> None:
    assert len(client.embed(model=embedder, input="word " * 400).embeddings) == 1
    with pytest.raises(ollama.ResponseError, match="has 402 tokens") as raised:
        client.embed(model=embedder, input="word " * 400, truncate=False)
    assert raised.value.status_code == 400


def test_models_are_listed(client: ollama.Client, embedder: str, reranker: str) -> None:
    listed = {model.model: model for model in client.list().models}
    assert {embedder, reranker} <= listed.keys()
    assert len(listed[embedder].digest) == 64 and listed[embedder].details.family


def test_a_model_is_shown_with_what_it_can(client: ollama.Client, embedder: str, reranker: str) -> None:
    shown = client.show(f"{embedder}:latest")
    assert shown.capabilities == ["embedding"] and shown.details.family
    kind = shown.modelinfo["general.architecture"]
    assert (shown.modelinfo[f"{kind}.embedding_length"], shown.modelinfo[f"{kind}.context_length"]) == (384, 256)
    running = {model.model: model for model in client.ps().models}
    assert {embedder, reranker} <= running.keys()
    assert running[embedder].digest and running[embedder].expires_at.year == 9999
    assert running[embedder].context_length == 256
    with pytest.raises(ollama.ResponseError, match="nowhere"):
        client.show("nowhere")


def test_a_model_that_is_not_there_is_said_to_be_missing(client: ollama.Client, embedder: str) -> None:
    with pytest.raises(ollama.ResponseError, match="nowhere") as raised:
        client.embed(model="nowhere", input="a")
    assert raised.value.status_code == 404


def test_awaited_it_is_the_same(live: LiveCluster, embedder: str, vectors: list[list[float]]) -> None:
    async def embed() -> list[list[float]]:
        answer = await ollama.AsyncClient(host=live.url).embed(model=embedder, input=TEXTS)
        return [list(row) for row in answer.embeddings]

    assert_same(asyncio.run(embed()), vectors)


def test_a_model_stays_as_long_as_its_last_request_says(client: ollama.Client, live: LiveCluster) -> None:
    with live.client() as ours:
        ours.launch_model("letters", model_uid="staying", keep_alive=-1)

        def left_s() -> float:
            (model,) = [model for model in client.ps().models if model.model == "staying"]
            assert model.expires_at is not None
            return (model.expires_at - datetime.now(UTC)).total_seconds()

        assert left_s() > 10**9
        assert len(client.embed(model="staying", input="a", keep_alive="10m").embeddings) == 1
        until(lambda: 590 < left_s() <= 601, within=10)
        client.embeddings(model="staying", prompt="a", keep_alive=-1)
        until(lambda: left_s() > 10**9, within=10)
        client.embed(model="staying", input="a", keep_alive=0)
        until(lambda: ours.status("staying").state == ModelState.ASLEEP, within=20)
        assert "staying" not in {model.model for model in client.ps().models}
        assert client.generate(model="staying", prompt="", keep_alive="5m").done_reason == "load"
        assert ours.status("staying").state == ModelState.READY
        until(lambda: 290 < left_s() <= 301, within=10)
        # As `ollama stop` asks.
        assert client.generate(model="staying", prompt="", keep_alive=0).done_reason == "unload"
        until(lambda: not ours.status("staying").workers, within=20)
        assert len(client.embed(model="staying", input="a").embeddings) == 1
        with pytest.raises(ollama.ResponseError, match="such as 5m"):
            client.embed(model="staying", input="a", keep_alive="soon")
        ours.terminate_model("staying")
