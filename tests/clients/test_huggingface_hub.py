"""huggingface_hub's client against the routes of text-embeddings-inference, a model's name in the address."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from tests.clients.conftest import TEXTS, assert_same
from tests.live import LiveCluster


def client_of(live: LiveCluster, route: str, uid: str) -> InferenceClient:
    return InferenceClient(f"{live.url}/{route}?model={uid}")


def test_feature_extraction_is_the_same(live: LiveCluster, embedder: str, vectors: list[list[float]]) -> None:
    client = client_of(live, "embed", embedder)
    assert_same(client.feature_extraction(TEXTS), vectors)
    assert_same(client.feature_extraction(TEXTS[0]), vectors[:1])


def test_feature_extraction_takes_all_its_arguments(live: LiveCluster, letters: str) -> None:
    client = client_of(live, "embed", letters)
    assert_same(client.feature_extraction("ab", normalize=False), [[0, 2, 2, 0, 0, 0, 0, 0]])
    assert_same(client.feature_extraction("ab", prompt_name="query"), client.feature_extraction("q: ab"))
    assert_same(client.feature_extraction("ab", dimensions=2), [[0, 1]])
    cut = client.feature_extraction("a" * 40 + "b", truncate=True, truncation_direction="left")
    assert not np.allclose(cut, client.feature_extraction("a" * 40 + "b", truncate=True))


def test_sentence_similarity_is_the_cosine(live: LiveCluster, embedder: str, vectors: list[list[float]]) -> None:
    found = client_of(live, "similarity", embedder).sentence_similarity(TEXTS[0], other_sentences=TEXTS[1:])
    assert_same(found, [np.dot(vectors[0], other) for other in vectors[1:]])


def test_text_classification_comes_best_first(live: LiveCluster, letters: str) -> None:
    # The SDK takes the first of what comes back, which is that of the first text of a batch.
    found = client_of(live, "predict", letters).text_classification([["bcd"]])
    assert [row.label for row in found] == ["consonant", "other", "vowel"]
    assert sum(row.score for row in found) == pytest.approx(1)


def test_awaited_it_is_the_same(live: LiveCluster, embedder: str, vectors: list[list[float]]) -> None:
    async def extract() -> Any:
        async with AsyncInferenceClient(f"{live.url}/embed?model={embedder}") as client:
            return await client.feature_extraction(TEXTS)

    assert_same(asyncio.run(extract()), vectors)


def test_an_error_is_said(live: LiveCluster, embedder: str) -> None:
    with pytest.raises(HfHubHTTPError, match="Input 0 has") as raised:
        client_of(live, "embed", embedder).feature_extraction("word " * 300, truncate=False)
    assert raised.value.response.status_code == 422
    with pytest.raises(HfHubHTTPError, match="uid: nowhere"):
        client_of(live, "embed", "nowhere").feature_extraction("a")
