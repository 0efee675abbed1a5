"""Haystack's embedders for servers that speak as OpenAI's does."""

from __future__ import annotations

from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.utils import Secret

from tests.clients.conftest import TEXTS, assert_same
from tests.live import LiveCluster


def test_a_text_is_embedded(live: LiveCluster, embedder: str, vectors: list[list[float]]) -> None:
    key = Secret.from_token("none")
    answer = OpenAITextEmbedder(api_key=key, model=embedder, api_base_url=f"{live.url}/v1").run(text=TEXTS[1])
    assert_same(answer["embedding"], vectors[1])
    assert answer["meta"]["model"] == embedder and answer["meta"]["usage"]["prompt_tokens"] > 5


def test_documents_are_embedded(live: LiveCluster, embedder: str, vectors: list[list[float]]) -> None:
    model = OpenAIDocumentEmbedder(
        api_key=Secret.from_token("none"), model=embedder, api_base_url=f"{live.url}/v1", progress_bar=False
    )
    answer = model.run(documents=[Document(content=text) for text in TEXTS])
    assert_same([document.embedding for document in answer["documents"]], vectors)
