"""LangChain's classes for Xinference and for Infinity."""

from __future__ import annotations

import pytest
from langchain_community.embeddings import InfinityEmbeddings, XinferenceEmbeddings

from tests.clients.conftest import TEXTS, assert_same
from tests.live import LiveCluster


def test_embeddings_are_the_same(live: LiveCluster, embedder: str, vectors: list[list[float]]) -> None:
    model = XinferenceEmbeddings(server_url=live.url, model_uid=embedder)
    assert_same(model.embed_documents(TEXTS), vectors)
    assert_same(model.embed_query(TEXTS[1]), vectors[1])


def test_the_class_for_infinity_gets_the_same(live: LiveCluster, embedder: str, vectors: list[list[float]]) -> None:
    model = InfinityEmbeddings(model=embedder, infinity_api_url=live.url)
    assert_same(model.embed_documents(TEXTS), vectors)
    assert_same(model.embed_query(TEXTS[1]), vectors[1])


def test_a_model_that_is_not_there_is_said_to_be_missing(live: LiveCluster, embedder: str) -> None:
    with pytest.raises(RuntimeError, match="uid: nowhere"):
        XinferenceEmbeddings(server_url=live.url, model_uid="nowhere").embed_query("a")
