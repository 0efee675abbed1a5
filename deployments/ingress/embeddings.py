"""Embedding routes: OpenAI and Xinference at /v1/embeddings, Infinity at /embeddings, Cohere at /v2/embed."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from fastapi import APIRouter, Request

from cluster import errors
from deployments.ingress.door import Json, json_body
from deployments.ingress.serving import Served, Serving, count

TRUNCATE_NAMES = ("truncate", "truncation")


def router(serving: Serving) -> APIRouter:
    routes = APIRouter(tags=["embeddings"])

    @routes.post("/v1/embeddings")
    @routes.post("/embeddings", summary="Infinity's path of the same call")
    async def create_embedding(request: Request) -> Json:
        body = await json_body(request, errors.BadRequest)
        items = _inputs(body)
        served = await serving.ask(request, _model(body), "embed", items, _params(body))
        return Json(openai_body(body, served), headers=served.headers)

    @routes.post("/v2/embed")
    async def cohere_embed(request: Request) -> Json:
        body = await json_body(request)
        texts = body.get("texts")
        if texts is None and isinstance(body.get("inputs"), list):
            texts = [_cohere_text(item) for item in body["inputs"]]
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise errors.InvalidBody("texts must be a list of texts, at least one.", None, "texts")
        served = await serving.ask(request, _model(body), "embed", texts, _params(body))
        return Json(_cohere(body, texts, served, request.state.request_id), headers=served.headers)

    @routes.post("/v1/convert_ids_to_tokens")
    async def convert_ids_to_tokens(request: Request) -> Json:
        body = await json_body(request)
        ids = body.get("input")
        if not isinstance(ids, list) or not all(str(token).isdecimal() for token in ids):
            raise errors.InvalidBody("input must be a list of token ids.", None, "input")
        served = await serving.ask(request, _model(body), "tokens", ids, {})
        return Json(served.answer.outputs)

    return routes


def _model(body: Mapping[str, Any]) -> str | None:
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise errors.BadRequest(f"model must be a name, not {model!r}.", None, "model")
    # Infinity's own clients send this when they were not told a model.
    return None if model in ("", "default/not-specified") else model


def _inputs(body: Mapping[str, Any]) -> list[Any]:
    """One text, many, one list of token ids, many, or objects with a text."""
    given = body.get("input")
    if isinstance(given, (str, dict)):
        given = [given]
    if not isinstance(given, list) or not given:
        raise errors.BadRequest("input must be a text or a list of at least one, and is missing or empty.", None, "input")
    if body.get("modality", "text") != "text":
        raise errors.BadRequest(f"modality {body['modality']!r} is not served by this model.", None, "modality")
    if all(isinstance(item, int) and not isinstance(item, bool) for item in given):
        return [given]
    for position, item in enumerate(given):
        is_ids = isinstance(item, list) and item and all(isinstance(token, int) for token in item)
        if not (isinstance(item, str) or is_ids or (isinstance(item, dict) and isinstance(item.get("text"), str))):
            raise errors.BadRequest(f"input {position} must be a text or a list of token ids.", None, "input")
    return given


def _params(body: Mapping[str, Any]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    dimensions = None if body.get("dimensions") == 0 else count(body, "dimensions", "output_dimension", "truncate_dim")
    if dimensions is not None:
        params["dimensions"] = dimensions
    for name in ("normalize", "normalized", "normalize_embeddings"):
        if isinstance(body.get(name), bool):
            params["normalize"] = body[name]
    for name in ("prompt_name", "task", "input_type"):
        if isinstance(body.get(name), str):
            params.setdefault("prompt_name", body[name])
    if isinstance(body.get("prompt"), str):
        params["prompt"] = body["prompt"]
    for name in TRUNCATE_NAMES:
        if body.get(name) is not None:
            params["truncate"] = body[name]
    return params


def openai_body(body: Mapping[str, Any], served: Served) -> dict[str, Any]:
    vectors = served.answer.outputs
    encoding = body.get("encoding_format") or "float"
    if encoding == "base64":
        raw = np.ascontiguousarray(vectors, dtype="<f4")
        encoded: list[Any] = [base64.b64encode(row.tobytes()).decode() for row in raw]
    elif encoding == "float":
        encoded = list(vectors)
    else:
        raise errors.BadRequest(f"encoding_format takes float or base64, not {encoding!r}.", None, "encoding_format")
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


def _cohere_text(item: Any) -> Any:
    content = item.get("content") if isinstance(item, dict) else None
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return " ".join(str(part.get("text", "")) for part in content)
    raise errors.InvalidBody("inputs must be objects whose content is text.", None, "inputs")


def _cohere(body: Mapping[str, Any], texts: list[str], served: Served, request_id: str) -> dict[str, Any]:
    vectors = served.answer.outputs
    kinds = body.get("embedding_types") or ["float"]
    embeddings: dict[str, Any] = {}
    for kind in kinds:
        if kind == "float":
            embeddings["float"] = list(vectors)
        elif kind == "base64":
            embeddings["base64"] = [base64.b64encode(row.tobytes()).decode() for row in vectors]
        else:
            raise errors.BadRequest(f"embedding type {kind!r} is not served yet; there is float and base64.")
    return {
        "id": request_id,
        "response_type": "embeddings_by_type",
        "embeddings": embeddings,
        "texts": texts,
        "images": [],
        "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": served.answer.tokens}},
    }
