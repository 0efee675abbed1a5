"""Texts to vectors."""

from __future__ import annotations

from deployments import ModelType
from deployments.embedding.sentence_transformers import SentenceTransformers

TYPE = ModelType(name="embedding", families={"sentence-transformers": SentenceTransformers})
