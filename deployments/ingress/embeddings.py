"""Embedding routes: OpenAI and Xinference at /v1/embeddings, Infinity at /embeddings, Cohere at /v2/embed."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
from fastapi import APIRouter, Request

from cluster import errors
from deployments.ingress.door import Json, json_body
from deployments.ingress.serving import Served, Serving, count

#: How vectors can be written down, in OpenAI's words and in Cohere's.
ENCODINGS = ("float", "base64")


def router(serving: Serving) -> APIRouter:
    routes = APIRouter(tags=["embeddings"])

    @routes.post("/v1/embeddings")
    @routes.post("/embeddings", summary="Infinity's path of the same call")
    async def create_embedding(request: Request) -> Json:
        try:
            body = await json_body(request)
            items = _inputs(body)
            if body.get("encoding_format") not in (None, *ENCODINGS):
                raise errors.InvalidBody("encoding_format takes float or base64.", None, "encoding_format")
            served = await serving.ask(request, _model(body), "embed", items, _params(body))
        except errors.InvalidBody as error:
            # OpenAI's answer to a body that does not fit is 400, and its clients tell errors apart by status.
            raise errors.BadRequest(*error.args) from None
        return Json(openai_body(body, served), headers=served.headers)

    @routes.post("/v2/embed")
    async def cohere_embed(request: Request) -> Json:
        body = await json_body(request)
        texts = body.get("texts")
        if texts is None and isinstance(body.get("inputs"), list):
            texts = [_cohere_text(item) for item in body["inputs"]]
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise errors.InvalidBody("texts must be a list of texts, at least one.", None, "texts")
        kinds = _cohere_kinds(body)
        served = await serving.ask(request, _model(body), "embed", texts, _params(body))
        return Json(_cohere(kinds, texts, served, request.state.request_id), headers=served.headers)

    @routes.post("/v1/convert_ids_to_tokens")
    async def convert_ids_to_tokens(request: Request) -> Json:
        body = await json_body(request)
        given: Any = body.get("input")
        is_nested = isinstance(given, list) and bool(given) and all(isinstance(ids, list) for ids in given)
        lists = [_token_ids(ids) for ids in given] if is_nested else [_token_ids(given)]
        served = await serving.ask(request, _model(body), "tokens", [token for ids in lists for token in ids], {})
        tokens = iter(served.answer.outputs)
        answers = [list(islice(tokens, len(ids))) for ids in lists]
        return Json(answers if is_nested else answers[0])

    return routes


def _model(body: Mapping[str, Any]) -> str | None:
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise errors.InvalidBody(f"model must be a name, not of the type {type(model).__name__}.", None, "model")
    # Infinity's own clients send this when they were not told a model.
    return None if model in ("", "default/not-specified") else model


def _inputs(body: Mapping[str, Any]) -> list[Any]:
    """One text, many, one list of token ids, many, or objects with a text."""
    given = body.get("input")
    if isinstance(given, (str, dict)):
        given = [given]
    if not isinstance(given, list) or not given:
        raise errors.InvalidBody(
            "input must be a text or a list of at least one, and is missing or empty.", None, "input"
        )
    if body.get("modality") not in (None, "text"):
        raise errors.InvalidBody("modality must be text; the model reads nothing else.", None, "modality")
    if all(map(_is_int, given)):
        return [given]
    return [_input(item, position) for position, item in enumerate(given)]


def _input(item: Any, position: int) -> str | list[int]:
    """What the worker needs of an input; whatever else an object holds stays here."""
    text = item.get("text") if isinstance(item, dict) else item
    if isinstance(text, str):
        return text
    if isinstance(item, list) and item and all(map(_is_int, item)):
        return item
    raise errors.InvalidBody(f"input {position} must be a text or a list of token ids.", None, "input")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _token_ids(given: Any) -> list[int]:
    """Xinference's clients send token ids as numbers or as texts of digits."""
    if isinstance(given, list) and all(isinstance(i, (int, str)) and re.fullmatch("[0-9]{1,9}", str(i)) for i in given):
        return [int(token) for token in given]
    raise errors.InvalidBody("input must be a list of token ids, or a list of such lists.", None, "input")


def _params(body: Mapping[str, Any]) -> dict[str, Any]:
    # 0 is Infinity's word for all of them.
    dimensions = None if body.get("dimensions") == 0 else count(body, "dimensions", "output_dimension", "truncate_dim")
    params = {
        "dimensions": dimensions,
        "normalize": _first(body, bool, "normalize", "normalized", "normalize_embeddings"),
        "prompt_name": _first(body, str, "prompt_name", "task", "input_type"),
        "prompt": _first(body, str, "prompt"),
        "truncate": _first(body, (bool, str), "truncate", "truncation"),
    }
    return {name: value for name, value in params.items() if value is not None}


def _first(body: Mapping[str, Any], kind: type | tuple[type, ...], *names: str) -> Any:
    """The first of these names that is given; each is one client's word for the same thing."""
    name = next((name for name in names if body.get(name) is not None), None)
    if name is None:
        return None
    if not isinstance(body[name], kind):
        raise errors.InvalidBody(f"{name} cannot be of the type {type(body[name]).__name__}.", None, name)
    return body[name]


def _base64(vectors: Any) -> list[str]:
    return [base64.b64encode(row.tobytes()).decode() for row in np.ascontiguousarray(vectors, dtype="<f4")]


def openai_body(body: Mapping[str, Any], served: Served) -> dict[str, Any]:
    vectors = served.answer.outputs
    encoded = _base64(vectors) if body.get("encoding_format") == "base64" else list(vectors)
    tokens = served.answer.tokens
    return {
        "object": "list",
        "model": served.model.uid,
        "model_replica": served.replica,
        "data": [{"index": i, "object": "embedding", "embedding": vector} for i, vector in enumerate(encoded)],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "id": f"embd-{int(time.time() * 1e6):x}",
        "created": int(time.time()),
    }


def _cohere_text(item: Any) -> str:
    content = item.get("content") if isinstance(item, dict) else None
    if not isinstance(content, list) or not content:
        raise errors.InvalidBody("inputs must be objects with a list of contents.", None, "inputs")
    texts = [part.get("text") if isinstance(part, dict) else None for part in content]
    if not all(isinstance(text, str) for text in texts):
        raise errors.InvalidBody("the contents of inputs must be texts; the model reads nothing else.", None, "inputs")
    return " ".join(map(str, texts))


def _cohere_kinds(body: Mapping[str, Any]) -> list[str]:
    kinds = body.get("embedding_types") or ["float"]
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        raise errors.InvalidBody("embedding_types must be a list of names.", None, "embedding_types")
    unknown = next((kind for kind in kinds if kind not in ENCODINGS), None)
    if unknown is not None:
        raise errors.BadRequest(
            f"embedding type {unknown!r} is not served yet; there is float and base64.", None, "embedding_types"
        )
    return kinds


def _cohere(kinds: list[str], texts: list[str], served: Served, request_id: str) -> dict[str, Any]:
    vectors = served.answer.outputs
    return {
        "id": request_id,
        "response_type": "embeddings_by_type",
        "embeddings": {kind: _base64(vectors) if kind == "base64" else list(vectors) for kind in kinds},
        "texts": texts,
        "images": [],
        "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": served.answer.tokens}},
    }
