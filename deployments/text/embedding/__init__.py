"""Texts, images and sounds to vectors."""

from __future__ import annotations

from deployments import ModelType
from deployments.text.embedding.bge_m3 import BgeM3
from deployments.text.embedding.clap import Clap
from deployments.text.embedding.clip import Clip
from deployments.text.embedding.late_interaction import LateInteraction
from deployments.text.embedding.sentence_transformers import SentenceTransformers
from deployments.text.embedding.sparse import SparseEncoders
from deployments.text.embedding.static import StaticEmbeddings

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
