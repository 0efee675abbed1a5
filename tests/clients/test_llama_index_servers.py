"""LlamaIndex's classes for text-embeddings-inference and for servers that speak as OpenAI's does."""

from __future__ import annotations

import asyncio

from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

from tests.clients.conftest import TEXTS, assert_same
from tests.live import LiveCluster


def test_the_class_for_tei_gets_the_same(live: LiveCluster, embedder: str, vectors: list[list[float]]) -> None:
    model = TextEmbeddingsInference(model_name=embedder, base_url=live.url, endpoint=f"/embed?model={embedder}")
    assert_same(model.get_text_embedding_batch(TEXTS), vectors)
    assert_same(asyncio.run(model.aget_text_embedding_batch(TEXTS)), vectors)


def test_the_class_for_openai_gets_the_same(live: LiveCluster, embedder: str, vectors: list[list[float]]) -> None:
    model = OpenAILikeEmbedding(model_name=embedder, api_base=f"{live.url}/v1", api_key="none", max_retries=0)
    assert_same(model.get_text_embedding_batch(TEXTS), vectors)
    assert_same(model.get_query_embedding(TEXTS[2]), vectors[2])
    assert_same(asyncio.run(model.aget_text_embedding_batch(TEXTS)), vectors)
