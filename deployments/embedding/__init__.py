"""Texts, images and sounds to vectors."""

from __future__ import annotations

from deployments import ModelType
from deployments.embedding.bge_m3 import BgeM3
from deployments.embedding.clap import Clap
from deployments.embedding.clip import Clip
from deployments.embedding.late_interaction import LateInteraction
from deployments.embedding.sentence_transformers import SentenceTransformers
from deployments.embedding.sparse import SparseEncoders
from deployments.embedding.static import StaticEmbeddings

TYPE = ModelType(
    name="embedding",
    families={
        "sentence-transformers": SentenceTransformers,
        "sparse": SparseEncoders,
        "late-interaction": LateInteraction,
        "bge-m3": BgeM3,
        "static": StaticEmbeddings,
        "clip": Clip,
        "clap": Clap,
    },
)
