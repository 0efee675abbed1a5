"""What users import to speak to a cluster over HTTP."""

from cluster.client.chat import AsyncLanguageModel, LanguageModel
from cluster.client.client import AsyncClient, Client
from cluster.client.documents import AsyncOcrModel, OcrModel
from cluster.client.images import AsyncImageModel, ImageModel
from cluster.client.jobs import AsyncJob, Job
from cluster.client.model import AsyncModel, Model
from cluster.client.results import Page, Picture, Pictures
from cluster.client.text import (
    AsyncEmbeddingModel,
    AsyncRerankModel,
    AsyncTextModel,
    EmbeddingModel,
    RerankModel,
    TextModel,
)

__all__ = [
    "AsyncClient",
    "AsyncEmbeddingModel",
    "AsyncImageModel",
    "AsyncJob",
    "AsyncLanguageModel",
    "AsyncModel",
    "AsyncOcrModel",
    "AsyncRerankModel",
    "AsyncTextModel",
    "Client",
    "EmbeddingModel",
    "ImageModel",
    "Job",
    "LanguageModel",
    "Model",
    "OcrModel",
    "Page",
    "Picture",
    "Pictures",
    "RerankModel",
    "TextModel",
]
