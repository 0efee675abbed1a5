"""What all routes for Ollama's clients share: how they name models and describe errors."""

from __future__ import annotations

from functools import partial

from typing_extensions import TypedDict

from deployments.ingress.openapi import described

#: What its clients put behind a name that has no tag.
TAG = ":latest"


class OllamaError(TypedDict):
    error: str
    code: str
    param: str | None


described_for_ollama = partial(described, error=OllamaError)
