"""LangChain's class for Xinference."""

from __future__ import annotations

import pytest
from langchain_community.embeddings import XinferenceEmbeddings

from tests.clients.conftest import TEXTS, assert_same


def test_embeddings_are_the_same(live, embedder, vectors):
    model = XinferenceEmbeddings(server_url=live.url, model_uid=embedder)
    assert_same(model.embed_documents(TEXTS), vectors)
    assert_same(model.embed_query(TEXTS[1]), vectors[1])


def test_a_model_that_is_not_there_is_said_to_be_missing(live, embedder):
    with pytest.raises(RuntimeError, match="uid: nowhere"):
        XinferenceEmbeddings(server_url=live.url, model_uid="nowhere").embed_query("a")
