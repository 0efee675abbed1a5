"""Which handle a model gets."""

from __future__ import annotations

import pytest

from cluster.client import (
    AsyncModel,
    EmbeddingModel,
    ImageModel,
    Model,
    OcrModel,
    RerankModel,
    TextModel,
)
from cluster.client.handles import HANDLES, handles_of
from cluster.client.model import ModelCalls


@pytest.mark.parametrize(
    ("abilities", "handle"),
    [
        (["embed", "tokenize", "decode", "tokens"], EmbeddingModel),
        (["embed_sparse", "tokenize"], EmbeddingModel),
        (["embed_tokens", "tokenize"], EmbeddingModel),
        (["rerank"], RerankModel),
        (["classify"], TextModel),
        (["image2image"], ImageModel),
        (["ocr"], OcrModel),
        (["fly"], Model),
        ([], Model),
    ],
)
def test_a_model_of_a_type_of_its_own_gets_the_handle_of_its_abilities(
    abilities: list[str], handle: type[Model]
) -> None:
    assert handles_of({"model_type": "of its own", "model_ability": abilities}).sync is handle


def test_both_handles_of_a_kind_have_the_same_calls() -> None:
    for sync, awaited in HANDLES:
        assert calls_of(sync, Model) == calls_of(awaited, AsyncModel) != []


def calls_of(handle: type, base: type) -> list[type]:
    return [kind for kind in handle.__mro__ if issubclass(kind, ModelCalls) and kind not in (handle, base, ModelCalls)]
