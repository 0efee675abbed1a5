"""Which handle a model gets: the first kind whose calls it is able to answer."""

from __future__ import annotations

from typing import NamedTuple

from cluster.client.chat import AsyncLanguageModel, LanguageModel
from cluster.client.documents import AsyncOcrModel, OcrModel
from cluster.client.images import AsyncImageModel, ImageModel
from cluster.client.model import AsyncModel, Model
from cluster.client.text import (
    AsyncEmbeddingModel,
    AsyncRerankModel,
    AsyncTextModel,
    EmbeddingModel,
    RerankModel,
    TextModel,
)
from cluster.value import JsonObject


class Handles(NamedTuple):
    sync: type[Model]
    awaited: type[AsyncModel]


HANDLES = (
    Handles(OcrModel, AsyncOcrModel),
    Handles(ImageModel, AsyncImageModel),
    Handles(LanguageModel, AsyncLanguageModel),
    Handles(EmbeddingModel, AsyncEmbeddingModel),
    Handles(RerankModel, AsyncRerankModel),
    Handles(TextModel, AsyncTextModel),
)


def handles_of(description: JsonObject) -> Handles:
    """The handles for a model that the server describes so."""
    for handles in HANDLES:
        if handles.sync.fits(description):
            return handles
    of_its_type = (handles for handles in HANDLES if handles.sync.model_type == description.get("model_type"))
    return next(of_its_type, Handles(Model, AsyncModel))
