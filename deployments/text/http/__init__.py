"""The routes of text models, a file for each dialect."""

from __future__ import annotations

from deployments.ingress.dialects import Dialect, file_bytes, text_bytes
from deployments.ingress.error_shapes import ollama_error, tei_error
from deployments.text.http import (
    classify,
    cohere,
    embeddings,
    hosting,
    ollama,
    ollama_models,
    prompts,
    rerank,
    tei,
    vllm,
)

ROUTES = (
    Dialect(classify.router, text_bytes),
    Dialect(tei.router, text_bytes, error_response=tei_error),
    Dialect(hosting.router, text_bytes, error_response=tei_error),
    Dialect(vllm.router, text_bytes),
    Dialect(prompts.router, text_bytes),
    Dialect(ollama.router, text_bytes, error_response=ollama_error),
    Dialect(ollama_models.router, scope="list", error_response=ollama_error),
    # Images are ranked, and images and sounds are embedded, as well.
    Dialect(rerank.router, file_bytes),
    Dialect(embeddings.router, file_bytes),
    Dialect(cohere.router, file_bytes),
)
