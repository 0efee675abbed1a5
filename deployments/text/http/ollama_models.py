"""Ollama's lists of models, and what it says of one."""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request
from typing_extensions import TypedDict

from cluster.routes import ModelRoutes
from cluster.value import JsonObject
from deployments.ingress.bodies import Json, json_body
from deployments.ingress.dialects import Services
from deployments.ingress.ollama import described_for_ollama
from deployments.ingress.version import VERSION
from deployments.text.http.ollama import name_in

#: Its words for what a model can do.
CAPABILITIES = {"embed": "embedding", "embed_image": "vision", "ocr": "vision", "chat": "completion"}
#: The same of what only a loaded model knows.
FACTS = {"takes_tools": "tools", "sees": "vision"}
#: When a model goes that stays for ever.
NEVER = datetime(9999, 1, 1, tzinfo=UTC).isoformat()


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


class RunningModel(ListedModel):
    expires_at: str
    size_vram: int
    context_length: int


class RunningModels(TypedDict):
    models: list[RunningModel]


class ShowBody(TypedDict, total=False):
    model: str | None
    #: What the field was called first.
    name: str | None
    verbose: bool | None


class ShownModel(TypedDict):
    license: str
    modelfile: str
    parameters: str
    template: str
    modified_at: str
    details: Details
    model_info: JsonObject
    capabilities: list[str]


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["ollama"])

    @routes.get("/api/tags")
    @described_for_ollama("The models that serve, as Ollama's clients read them", ListedModels)
    async def tags(request: Request) -> Json:
        models = services.dispatcher.table.visible(request.state.key).values()
        return Json({"models": [_row(model) for model in models if model.workers]})

    @routes.get("/api/ps")
    @described_for_ollama("The models that run, as Ollama's clients read them", RunningModels)
    async def running(request: Request) -> Json:
        """Those that are loaded: others sleep until somebody asks for them."""
        models = services.dispatcher.table.visible(request.state.key).values()
        left_s = await services.dispatcher.keep_alive.left_s()
        return Json({"models": [_running(model, left_s.get(model.uid)) for model in models if model.workers]})

    @routes.post("/api/show")
    @described_for_ollama("What a model is, as Ollama's clients read it", ShownModel, body=ShowBody)
    async def show(request: Request) -> Json:
        body = await json_body(request)
        name = name_in(body if body.get("model") else {"model": body.get("name")})
        return Json(_shown(services.serving.find(request, name)))

    @routes.get("/api/version")
    @described_for_ollama("The version of the server, as Ollama's clients read it", OllamaVersion)
    async def version() -> Json:
        return Json({"version": VERSION})

    return routes


def _row(model: ModelRoutes) -> JsonObject:
    launched = model.launched
    identity = f"{launched.name} {launched.revision} {launched.quantization}"
    row: dict[str, Any] = {
        "name": model.uid,
        "model": model.uid,
        "modified_at": datetime.fromtimestamp(launched.created, UTC).isoformat(),
        "size": 0,
        "digest": hashlib.sha256(identity.encode()).hexdigest(),
        "details": _details(model),
    }
    return row


def _running(model: ModelRoutes, left_s: float | None) -> JsonObject:
    """`left_s`: None for a model of which the supervisor knows nothing any more."""
    until = NEVER
    if left_s is None or not math.isinf(left_s):
        until = (datetime.now(UTC) + timedelta(seconds=left_s or 0.0)).isoformat()
    return {**_row(model), "expires_at": until, "size_vram": 0, "context_length": model.max_tokens or 0}


def _details(model: ModelRoutes) -> JsonObject:
    launched = model.launched
    return {
        "parent_model": "",
        "format": launched.format or "",
        "family": launched.family or launched.type,
        "families": [launched.family or launched.type],
        "parameter_size": "",
        "quantization_level": launched.quantization or "",
    }


def _shown(model: ModelRoutes) -> JsonObject:
    launched = model.launched
    kind = launched.family or launched.type
    dimensions = model.facts.listed.get("dimensions", launched.dimensions)
    capabilities = [CAPABILITIES[can] for can in model.abilities if can in CAPABILITIES]
    capabilities += [word for fact, word in FACTS.items() if model.facts.listed.get(fact)]
    sizes = {"context_length": model.max_tokens, "embedding_length": dimensions}
    return {
        "license": "",
        "modelfile": f"FROM {launched.name}",
        "parameters": "",
        "template": "",
        "modified_at": datetime.fromtimestamp(launched.created, UTC).isoformat(),
        "details": _details(model),
        "model_info": {
            "general.architecture": kind,
            "general.basename": launched.name,
            **{f"{kind}.{name}": size for name, size in sizes.items() if size is not None},
        },
        "capabilities": list(dict.fromkeys(capabilities)),
    }
