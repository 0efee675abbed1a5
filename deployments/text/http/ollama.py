"""Ollama's routes for embedding models."""

from __future__ import annotations

import time
from typing import Annotated, Any, Required

from fastapi import APIRouter, Request
from pydantic import Field
from typing_extensions import TypedDict

from cluster import errors
from cluster.value import JsonObject
from deployments.ingress.bodies import Json, json_body
from deployments.ingress.dialects import Services
from deployments.ingress.keep_alive import read_keep_alive
from deployments.ingress.ollama import TAG, described_for_ollama
from deployments.text.http.fields import count, flag, model_of, texts_of


class EmbedBody(TypedDict, total=False):
    model: Required[str]
    input: Required[str | list[str]]
    truncate: bool | None
    dimensions: int | None
    options: Annotated[JsonObject | None, Field(description="Passed over: they are for models that write.")]
    keep_alive: Annotated[
        str | float | None,
        Field(description="How long the model stays after this request: 5m, 300, 0 to go at once, -1 for ever."),
    ]


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


def router(services: Services) -> APIRouter:
    serving, keep_alive = services.serving, services.dispatcher.keep_alive
    routes = APIRouter(tags=["ollama"])

    @routes.post("/api/embed")
    @described_for_ollama("Embed texts, as Ollama does", Embedded, body=EmbedBody)
    async def embed(request: Request) -> Json:
        """Vectors of length 1. A text that is too long is cut, unless `truncate` is false."""
        body = await json_body(request)
        started = time.perf_counter_ns()
        truncates = True if body.get("truncate") is None else flag(body["truncate"], "truncate")
        params: JsonObject = {"normalize": True, "truncate": "END" if truncates else "NONE"}
        if (dimensions := count(body, "dimensions")) is not None:
            params["dimensions"] = dimensions
        name = name_in(body)
        uid, vectors, tokens = serving.find(request, name, "embed").uid, list[Any](), 0
        with keep_alive.after(uid, read_keep_alive(body.get("keep_alive"), request.state.key)):
            if body.get("input") != []:
                served = await serving.ask(request, uid, "embed", texts_of(body.get("input"), "input"), params)
                vectors, tokens = list(served.answer.outputs), served.answer.tokens
        took = time.perf_counter_ns() - started
        timings = {"total_duration": took, "load_duration": 0, "prompt_eval_count": tokens}
        return Json({"model": uid, "embeddings": vectors, **timings})

    @routes.post("/api/embeddings")
    @described_for_ollama("Embed a text, as Ollama did first", EmbeddedOne, body=EmbedOneBody)
    async def embed_one(request: Request) -> Json:
        body = await json_body(request)
        if not isinstance(body.get("prompt"), str):
            raise errors.InvalidBody("prompt must be a text.", "prompt")
        uid = serving.find(request, name_in(body), "embed").uid
        with keep_alive.after(uid, read_keep_alive(body.get("keep_alive"), request.state.key)):
            served = await serving.ask(request, uid, "embed", [body["prompt"]], {"truncate": "END"})
        return Json({"embedding": served.answer.outputs[0]})

    return routes


def name_in(body: JsonObject) -> str | None:
    name = model_of(body)
    return name.removesuffix(TAG) if name is not None else None
