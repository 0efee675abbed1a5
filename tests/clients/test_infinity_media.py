"""Infinity's clients for images, sounds and classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from infinity_client import Client
from infinity_client.api.default import classify, embeddings, embeddings_audio, embeddings_image, models
from infinity_client.models import (
    AudioEmbeddingInput,
    ClassifyInput,
    ImageEmbeddingInput,
    OpenAIEmbeddingInputAudio,
    OpenAIEmbeddingInputImage,
)
from infinity_client.vision_client import InfinityVisionAPI
from PIL import Image

from tests.clients.conftest import PNG, WAV
from tests.live import LiveCluster


@pytest.fixture
def client(live: LiveCluster) -> Iterator[Client]:
    with Client(base_url=live.url, raise_on_unexpected_status=True) as client:
        yield client


def test_images_and_sounds_are_told_apart_by_modality(client: Any, letters: str) -> None:
    image = OpenAIEmbeddingInputImage(input_=[PNG, PNG], model=letters)
    first, second = embeddings.sync(client=client, body=image).data
    assert len(first.embedding) == 8 and first.embedding == second.embedding
    sound = OpenAIEmbeddingInputAudio(input_=WAV, model=letters)
    assert embeddings.sync(client=client, body=sound).data[0].embedding != first.embedding
    old = embeddings_image.sync(client=client, body=ImageEmbeddingInput(input_=PNG, model=letters))
    assert old.data[0].embedding == first.embedding
    old = embeddings_audio.sync(client=client, body=AudioEmbeddingInput(input_=[WAV], model=letters))
    assert old.usage.total_tokens == 1


def test_its_vision_client_gets_texts_and_images(live: LiveCluster, letters: str) -> None:
    api = InfinityVisionAPI(url=live.url, model=letters)
    assert api.hidden_dim == 8
    (text,), tokens = api.embed(letters, ["ab"]).result(10)
    assert text.shape == (1, 8) and tokens == 4
    (image,), _ = api.image_embed(letters, [Image.new("RGB", (8, 8))]).result(10)
    assert image.shape == (1, 8)


def test_classes_come_best_first(client: Any, letters: str) -> None:
    answer = classify.sync(client=client, body=ClassifyInput(input_=["bcd", "a"], model=letters))
    assert [row.label for row in answer.data[0]] == ["consonant", "other", "vowel"]
    assert answer.data[0][0].score > answer.data[0][1].score
    assert answer.usage.total_tokens == 8 and answer.model == letters


def test_a_model_says_what_it_can_and_has_to_do(client: Any, letters: str) -> None:
    (model,) = [model for model in models.sync(client=client).data if model.id == letters]
    assert set(model.capabilities) == {"embed", "rerank", "classify", "image_embed", "audio_embed"}
    assert [model.stats[name] for name in ("queue_fraction", "queue_absolute", "results_pending")] == [0.0, 0, 0]
