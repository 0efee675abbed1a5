"""Models of texts: embeddings, rerankers, classifiers."""

from __future__ import annotations

from deployments.text import classify, embedding, rerank

#: `engines` imports sentence-transformers without the parts that only training needs.
PRELOAD = ("deployments.text.encoders.engines", "torch._dynamo", "transformers.models.auto.modeling_auto")
TYPES = (embedding.TYPE, rerank.TYPE, classify.TYPE)
