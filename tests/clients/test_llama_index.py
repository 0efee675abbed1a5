"""LlamaIndex's classes for Xinference."""

from __future__ import annotations

import asyncio

import pytest
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.embeddings.xinference import XinferenceEmbedding
from llama_index.postprocessor.xinference_rerank import XinferenceRerank

from tests.clients.conftest import DOCUMENTS, QUERY, TEXTS, assert_same
from tests.live import LiveCluster


def test_embeddings_are_the_same(live: LiveCluster, embedder: str, vectors: list[list[float]]) -> None:
    model = XinferenceEmbedding(model_uid=embedder, base_url=live.url)
    assert_same(model.get_text_embedding_batch(TEXTS), vectors)
    assert_same(model.get_query_embedding(TEXTS[2]), vectors[2])


def test_embeddings_awaited_together_are_the_same(live: LiveCluster, embedder: str, vectors: list[list[float]]) -> None:
    model = XinferenceEmbedding(model_uid=embedder, base_url=live.url)
    assert_same(asyncio.run(model.aget_text_embedding_batch(TEXTS)), vectors)


def test_nodes_are_reranked(live: LiveCluster, reranker: str, scores: dict[int, float]) -> None:
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.5) for text in DOCUMENTS]
    model = XinferenceRerank(model=reranker, base_url=live.url, top_n=2)
    best = model.postprocess_nodes(nodes, QueryBundle(QUERY))
    assert [node.node.get_content() for node in best] == [DOCUMENTS[index] for index in list(scores)[:2]]
    assert_same([node.score for node in best], list(scores.values())[:2])


def test_a_model_that_is_not_there_is_said_to_be_missing(live: LiveCluster, embedder: str) -> None:
    with pytest.raises(Exception, match="404.*nowhere"):
        XinferenceEmbedding(model_uid="nowhere", base_url=live.url).get_query_embedding("a")
