"""Voyage's SDK."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import voyageai

from deployments.vectors import quantized
from tests.clients.conftest import DOCUMENTS, QUERY, TEXTS, assert_nearly_all, assert_same
from tests.live import LiveCluster


@pytest.fixture
def client(live: LiveCluster) -> voyageai.Client:
    return voyageai.Client(api_key="none", base_url=f"{live.url}/v1")


def test_embeddings_are_the_same(client: voyageai.Client, embedder: str, vectors: list[list[float]]) -> None:
    answer = client.embed(TEXTS, model=embedder, input_type="document")
    assert_same(answer.embeddings, vectors)
    assert answer.total_tokens > 3 * 5


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_every_type_is_decoded(
    client: voyageai.Client, embedder: str, vectors: list[list[float]], precision: str
) -> None:
    found = client.embed(TEXTS, model=embedder, output_dtype=precision).embeddings
    assert_nearly_all(found, quantized(np.array(vectors, np.float32), precision))


def test_dimensions_are_honoured(client: voyageai.Client, embedder: str, vectors: list[list[float]]) -> None:
    found = client.embed(TEXTS, model=embedder, output_dimension=16).embeddings
    cut = np.array(vectors)[:, :16]
    assert_same(found, cut / np.linalg.norm(cut, axis=1, keepdims=True))


def test_rerank_is_the_same(client: voyageai.Client, reranker: str, scores: dict[int, float]) -> None:
    answer = client.rerank(QUERY, DOCUMENTS, model=reranker, top_k=2)
    assert [row.index for row in answer.results] == list(scores)[:2]
    assert_same([row.relevance_score for row in answer.results], list(scores.values())[:2])
    assert answer.results[0].document == DOCUMENTS[1] and answer.total_tokens > 2 * 10
    assert len(client.rerank(QUERY, DOCUMENTS, model=reranker).results) == 3


def test_awaited_it_is_the_same(live: LiveCluster, embedder: str, vectors: list[list[float]]) -> None:
    client = voyageai.AsyncClient(api_key="none", base_url=f"{live.url}/v1")
    assert_same(asyncio.run(client.embed(TEXTS, model=embedder)).embeddings, vectors)


def test_a_text_that_may_not_be_cut_is_refused(client: voyageai.Client, embedder: str) -> None:
    with pytest.raises(voyageai.error.InvalidRequestError, match="Input 1 has"):
        client.embed(["a", "word " * 300], model=embedder, truncation=False)
