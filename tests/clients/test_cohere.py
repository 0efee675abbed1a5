"""Cohere's SDK, both of its versions."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import cohere
import numpy as np
import pytest

from deployments.vectors import quantized
from tests.clients.conftest import DOCUMENTS, PNG, QUERY, TEXTS, assert_nearly_all, assert_same
from tests.live import LiveCluster


@pytest.fixture
def v1(live: LiveCluster) -> Iterator[cohere.Client]:
    with cohere.Client(api_key="none", base_url=live.url) as client:
        yield client


@pytest.fixture
def v2(live: LiveCluster) -> Iterator[cohere.ClientV2]:
    with cohere.ClientV2(api_key="none", base_url=live.url) as client:
        yield client


def test_rerank_v1_is_the_same(v1: Any, reranker: str, scores: dict[int, float]) -> None:
    answer = v1.rerank(model=reranker, query=QUERY, documents=DOCUMENTS)
    assert {row.index: row.relevance_score for row in answer.results} == pytest.approx(scores, abs=1e-5)
    assert [row.index for row in answer.results] == list(scores)
    assert [row.document for row in answer.results] == [None] * 3
    assert answer.meta.billed_units.search_units == 1


def test_rerank_v1_returns_documents_with_all_their_fields(v1: Any, reranker: str) -> None:
    documents = [{"text": text, "page": str(page)} for page, text in enumerate(DOCUMENTS)]
    answer = v1.rerank(model=reranker, query=QUERY, documents=documents, top_n=1, return_documents=True)
    assert len(answer.results) == 1 and answer.results[0].index == 1
    assert answer.results[0].document.text == DOCUMENTS[1]
    assert answer.results[0].document.page == "1"


def test_rerank_v2_is_the_same(v2: Any, reranker: str, scores: dict[int, float]) -> None:
    answer = v2.rerank(model=reranker, query=QUERY, documents=DOCUMENTS, top_n=2, max_tokens_per_doc=4096)
    assert [row.index for row in answer.results] == list(scores)[:2]
    assert_same([row.relevance_score for row in answer.results], list(scores.values())[:2])
    assert answer.id


def test_rerank_v2_awaited_is_the_same(live: LiveCluster, reranker: str, scores: dict[int, float]) -> None:
    async def rerank() -> Any:
        async with cohere.AsyncClientV2(api_key="none", base_url=live.url) as client:
            return await client.rerank(model=reranker, query=QUERY, documents=DOCUMENTS)

    assert [row.index for row in asyncio.run(rerank()).results] == list(scores)


def test_embed_v2_is_the_same(v2: Any, embedder: str, vectors: list[list[float]]) -> None:
    answer = v2.embed(model=embedder, texts=TEXTS, input_type="search_document", embedding_types=["float", "base64"])
    assert answer.response_type == "embeddings_by_type"
    assert_same(answer.embeddings.float_, vectors)
    assert_same([np.frombuffer(base64.b64decode(row), "<f4") for row in answer.embeddings.base64], vectors)
    assert answer.texts == TEXTS
    assert answer.meta.billed_units.input_tokens > 3 * 5


def test_embed_v2_takes_inputs_and_dimensions(v2: Any, embedder: str, vectors: list[list[float]]) -> None:
    inputs = [{"content": [{"type": "text", "text": text}]} for text in TEXTS]
    answer = v2.embed(model=embedder, inputs=inputs, input_type="search_query", output_dimension=16)
    cut = np.array(vectors)[:, :16]
    assert_same(answer.embeddings.float_, cut / np.linalg.norm(cut, axis=1, keepdims=True))


def test_embed_v2_has_every_type(v2: Any, embedder: str, vectors: list[list[float]]) -> None:
    types = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    found = v2.embed(model=embedder, texts=TEXTS, input_type="search_document", embedding_types=types).embeddings
    assert_same(found.float_, vectors)
    for precision in types[1:5]:
        assert_nearly_all(getattr(found, precision), quantized(np.array(vectors, np.float32), precision))


def test_embed_v1_puts_batches_together(v1: Any, embedder: str, vectors: list[list[float]]) -> None:
    # The SDK sends 96 texts at a time.
    answer = v1.embed(texts=TEXTS * 40, model=embedder, input_type="search_document")
    assert answer.response_type == "embeddings_floats"
    assert_same(answer.embeddings, vectors * 40)
    by_type = v1.embed(texts=TEXTS, model=embedder, input_type="search_document", embedding_types=["float", "int8"])
    assert_same(by_type.embeddings.float_, vectors)
    assert np.shape(by_type.embeddings.int8) == (3, 384)


def test_embed_takes_images(v2: Any, letters: str) -> None:
    answer = v2.embed(model=letters, images=[PNG], input_type="image", embedding_types=["float"])
    inputs = [{"content": [{"type": "image_url", "image_url": {"url": PNG}}]}]
    again = v2.embed(model=letters, inputs=inputs, input_type="image", embedding_types=["float"])
    assert answer.embeddings.float_ == again.embeddings.float_
    assert len(answer.embeddings.float_[0]) == 8


def test_errors_are_its_own_classes(v2: Any, embedder: str, reranker: str) -> None:
    with pytest.raises(cohere.NotFoundError) as missing:
        v2.rerank(model="nowhere", query="q", documents=["a"])
    assert missing.value.body["error"]["code"] == "model_not_found"
    with pytest.raises(cohere.UnprocessableEntityError) as unfit:
        v2.rerank(model=reranker, query="q", documents=[])
    assert unfit.value.body["error"]["param"] == "documents"
    with pytest.raises(cohere.UnprocessableEntityError, match="int4"):
        v2.embed(model=embedder, texts=["a"], input_type="search_query", embedding_types=["int4"])
    with pytest.raises(cohere.BadRequestError, match="cannot embed_image"):
        v2.embed(model=embedder, images=[PNG], input_type="image", embedding_types=["float"])
