"""Models of texts: embeddings, rerankers, classifiers."""

from __future__ import annotations

from deployments.text import classify, embedding, rerank

TYPES = (embedding.TYPE, rerank.TYPE, classify.TYPE)
