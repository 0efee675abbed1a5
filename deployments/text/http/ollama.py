"""Ollama's routes for embedding models, and its list of them."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Required

from fastapi import APIRouter, Request
from pydantic import Field
from typing_extensions import TypedDict

from cluster import errors
from cluster.routes import ModelRoutes
from cluster.value import JsonObject
from deployments.ingress.bodies import Json, json_body
from deployments.ingress.dialects import Services
from deployments.ingress.errors import error_response
from deployments.ingress.openapi import described
from deployments.ingress.version import VERSION
from deployments.text.http.fields import count, flag, model_of, texts_of

#: What its clients put behind a name that has no tag.
TAG = ":latest"


class OllamaError(TypedDict):
    error: str
    code: str
    param: str | None


class EmbedBody(TypedDict, total=False):
    model: Required[str]
    input: Required[str | list[str]]
    truncate: bool | None
    dimensions: int | None
    options: Annotated[JsonObject | None, Field(description="Passed over: they are for models that write.")]
    keep_alive: Annotated[str | float | None, Field(description="Passed over: how long a model stays is its launch's.")]


class Embedded(TypedDict):
    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class EmbedOneBody(TypedDict, total=False):
    model: Required[str]
    prompt: Required[str]
    options: JsonObject | None
    keep_alive: str | float | None


class EmbeddedOne(TypedDict):
    embedding: list[float]


class Details(TypedDict):
    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class ListedModel(TypedDict):
    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class ListedModels(TypedDict):
    models: list[ListedModel]


class OllamaVersion(TypedDict):
    version: str


_described = partial(described, error=OllamaError)


def router(services: Services) -> APIRouter:
    serving = services.serving
    routes = APIRouter(tags=["ollama"])

    @routes.post("/api/embed")
    @_described("Embed texts, as Ollama does", Embedded, body=EmbedBody)
    async def embed(request: Request) -> Json:
        """Vectors of length 1. A text that is too long is cut, unless `truncate` is false."""
        body = await json_body(request)
        started = time.perf_counter_ns()
        truncates = True if body.get("truncate") is None else flag(body["truncate"], "truncate")
        params: JsonObject = {"normalize": True, "truncate": "END" if truncates else "NONE"}
        if (dimensions := count(body, "dimensions")) is not None:
            params["dimensions"] = dimensions
        name = _name_in(body)
        if body.get("input") == []:
            uid, vectors, tokens = serving.find(request, name, "embed").uid, [], 0
        else:
            served = await serving.ask(request, name, "embed", texts_of(body.get("input"), "input"), params)
            uid, vectors, tokens = served.model.uid, list(served.answer.outputs), served.answer.tokens
        took = time.perf_counter_ns() - started
        timings = {"total_duration": took, "load_duration": 0, "prompt_eval_count": tokens}
        return Json({"model": uid, "embeddings": vectors, **timings})

    @routes.post("/api/embeddings")
    @_described("Embed a text, as Ollama did first", EmbeddedOne, body=EmbedOneBody)
    async def embed_one(request: Request) -> Json:
        body = await json_body(request)
        if not isinstance(body.get("prompt"), str):
            raise errors.InvalidBody("prompt must be a text.", "prompt")
        served = await serving.ask(request, _name_in(body), "embed", [body["prompt"]], {"truncate": "END"})
        return Json({"embedding": served.answer.outputs[0]})

    return routes


def listing(services: Services) -> APIRouter:
    routes = APIRouter(tags=["ollama"])

    @routes.get("/api/tags")
    @_described("The models that serve, as Ollama's clients read them", ListedModels)
    async def tags(request: Request) -> Json:
        models = services.dispatcher.table.visible(request.state.key).values()
        return Json({"models": [_row(model) for model in models if model.workers]})

    @routes.get("/api/version")
    @_described("The version of the server, as Ollama's clients read it", OllamaVersion)
    async def version() -> Json:
        return Json({"version": VERSION})

    return routes


def answer_error(error: errors.ClusterError) -> Json:
    """`error` is the sentence, there, and a body that does not fit is a bad request."""
    usual = error_response(error)
    if isinstance(error, (errors.NotAuthenticated, errors.NotPermitted)):
        return usual
    headers = {name: usual.headers[name] for name in ("retry-after",) if name in usual.headers}
    status = 400 if error.status == 422 else error.status
    return Json({"error": error.message, "code": error.code(), "param": error.param}, status, headers)


def _name_in(body: JsonObject) -> str | None:
    name = model_of(body)
    return name.removesuffix(TAG) if name is not None else None


def _row(model: ModelRoutes) -> JsonObject:
    launched = model.launched
    identity = f"{launched.name} {launched.revision} {launched.quantization}"
    row: dict[str, Any] = {
        "name": model.uid,
        "model": model.uid,
        # When it was launched is not in the table of routes, and clients only show it.
        "modified_at": datetime.fromtimestamp(0, UTC).isoformat(),
        "size": 0,
        "digest": hashlib.sha256(identity.encode()).hexdigest(),
        "details": {
            "parent_model": "",
            "format": launched.format or "",
            "family": launched.family or launched.type,
            "families": [launched.family or launched.type],
            "parameter_size": "",
            "quantization_level": launched.quantization or "",
        },
    }
    return row
