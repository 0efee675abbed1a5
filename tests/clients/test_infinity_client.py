"""Infinity's generated client, which accepts only the enumerated words that it knows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from infinity_client import Client
from infinity_client.api.default import embeddings, health, models, rerank
from infinity_client.errors import UnexpectedStatus
from infinity_client.models import OpenAIEmbeddingInputText, RerankInput
from infinity_client.models.model_info_owned_by import ModelInfoOwnedBy

from tests.clients.conftest import DOCUMENTS, QUERY, TEXTS, assert_same
from tests.live import LiveCluster


@pytest.fixture
def client(live: LiveCluster) -> Iterator[Client]:
    with Client(base_url=live.url, raise_on_unexpected_status=True) as client:
        yield client


def test_embeddings_are_the_same(client: Any, embedder: str, vectors: list[list[float]]) -> None:
    answer = embeddings.sync(client=client, body=OpenAIEmbeddingInputText(input_=TEXTS, model=embedder))
    assert_same([row.embedding for row in answer.data], vectors)
    assert answer.usage.total_tokens > 3 * 5 and answer.model == embedder


def test_without_a_model_the_only_one_that_embeds_does(client: Any, embedder: str, vectors: list[list[float]]) -> None:
    answer = embeddings.sync(client=client, body=OpenAIEmbeddingInputText(input_=TEXTS[0]))
    assert answer.model == embedder
    assert_same(answer.data[0].embedding, vectors[0])


def test_dimensions_are_honoured(client: Any, embedder: str, vectors: list[list[float]]) -> None:
    answer = embeddings.sync(client=client, body=OpenAIEmbeddingInputText(input_=TEXTS, model=embedder, dimensions=8))
    cut = np.array(vectors)[:, :8]
    assert_same([row.embedding for row in answer.data], cut / np.linalg.norm(cut, axis=1, keepdims=True))


def test_rerank_is_the_same(client: Any, reranker: str, scores: dict[int, float]) -> None:
    body = RerankInput(query=QUERY, documents=DOCUMENTS, model=reranker, return_documents=True, top_n=2)
    answer = rerank.sync(client=client, body=body)
    assert [row.index for row in answer.results] == list(scores)[:2]
    assert_same([row.relevance_score for row in answer.results], list(scores.values())[:2])
    assert answer.results[0].document == DOCUMENTS[1]
    assert answer.usage.total_tokens > 3 * 10


def test_raw_scores_are_before_the_sigmoid(client: Any, reranker: str, scores: dict[int, float]) -> None:
    body = RerankInput(query=QUERY, documents=DOCUMENTS, model=reranker, raw_scores=True)
    logits = np.array([row.relevance_score for row in rerank.sync(client=client, body=body).results])
    assert_same(1 / (1 + np.exp(-logits)), list(scores.values()))


def test_models_say_what_they_can(client: Any, embedder: str, reranker: str) -> None:
    can = {model.id: model.capabilities for model in models.sync(client=client).data}
    assert "embed" in can[embedder] and "rerank" in can[reranker]  # type: ignore[operator]
    assert all(model.owned_by == ModelInfoOwnedBy.INFINITY for model in models.sync(client=client).data)


def test_health_is_a_time(client: Any) -> None:
    assert health.sync(client=client)["unix"] > 1.7e9


def test_awaited_answers_are_the_same(
    live: LiveCluster, embedder: str, reranker: str, vectors: list[list[float]], scores: dict[int, float]
) -> None:
    async def ask() -> Any:
        async with Client(base_url=live.url) as client:
            return await asyncio.gather(
                embeddings.asyncio(client=client, body=OpenAIEmbeddingInputText(input_=TEXTS, model=embedder)),
                rerank.asyncio(client=client, body=RerankInput(query=QUERY, documents=DOCUMENTS, model=reranker)),
                models.asyncio(client=client),
                health.asyncio(client=client),
            )

    embedded, ranked, listed, alive = asyncio.run(ask())
    assert_same([row.embedding for row in embedded.data], vectors)
    assert [row.index for row in ranked.results] == list(scores)
    assert {embedder, reranker} <= {model.id for model in listed.data}
    assert alive["unix"] > 1.7e9


@pytest.mark.parametrize(("model", "text", "status"), [("nowhere", "a", 404), ("minilm", [], 400)])
def test_an_error_keeps_its_status_and_sentence(client: Any, embedder: str, model: str, text: Any, status: int) -> None:
    with pytest.raises(UnexpectedStatus, match="detail") as raised:
        embeddings.sync(client=client, body=OpenAIEmbeddingInputText(input_=text, model=model))
    assert raised.value.status_code == status
