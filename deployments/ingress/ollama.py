"""What all routes for Ollama's clients share: how they name models and read errors."""

from __future__ import annotations

from functools import partial

from typing_extensions import TypedDict

from cluster import errors
from deployments.ingress.bodies import Json
from deployments.ingress.errors import error_response
from deployments.ingress.openapi import described

#: What its clients put behind a name that has no tag.
TAG = ":latest"


class OllamaError(TypedDict):
    error: str
    code: str
    param: str | None


described_for_ollama = partial(described, error=OllamaError)


def answer_error(error: errors.ClusterError) -> Json:
    """`error` is the sentence, there, and a body that does not fit is a bad request."""
    usual = error_response(error)
    if isinstance(error, (errors.NotAuthenticated, errors.NotPermitted)):
        return usual
    headers = {name: usual.headers[name] for name in ("retry-after",) if name in usual.headers}
    status = 400 if error.status == 422 else error.status
    return Json({"error": error.message, "code": error.code(), "param": error.param}, status, headers)
