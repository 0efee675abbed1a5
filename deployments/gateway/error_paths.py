"""In which shape the errors of the gateway itself are answered: in that of the path, as a cell would.

The dialects say it in their `ROUTES`; to read those would load the HTTP of every wing, which is as much memory as a
gateway has. A test compares both.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from cluster import errors
from deployments.ingress.bodies import Json
from deployments.ingress.error_shapes import anthropic_error, mistral_error, ollama_error, tei_error
from deployments.ingress.errors import error_response

ErrorShape = Callable[[errors.ClusterError], Json]

_SHAPES: tuple[tuple[re.Pattern[str], ErrorShape], ...] = (
    (re.compile(r"/(anthropic/v1/models(/.*)?|(anthropic/)?v1/messages(/count_tokens)?)"), anthropic_error),
    (re.compile(r"/api/(chat|generate|embed|embeddings|show|tags|ps|version)"), ollama_error),
    (re.compile(r"/v1/ocr"), mistral_error),
    (
        re.compile(r"/(embed|embed_all|embed_sparse|predict|similarity|tokenize|decode|info|invocations|vertex)?"),
        tei_error,
    ),
)


#: What tells the call of text-embeddings-inference from that of others.
_TEXTS = re.compile(rb'"texts"\s*:')


def shape_of(path: str, body: bytes = b"") -> ErrorShape:
    if path == "/rerank" and _TEXTS.search(body):
        return tei_error
    return next((shape for pattern, shape in _SHAPES if pattern.fullmatch(path)), error_response)
