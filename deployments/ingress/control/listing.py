"""What serves now, as OpenAI's, Xinference's and Infinity's clients read it; from the routing table alone."""

from __future__ import annotations

from fastapi import APIRouter, Request
from typing_extensions import TypedDict

from cluster import errors, keys
from cluster.names import cut
from cluster.routes import ModelRoutes
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.settings import Settings
from cluster.value import JsonObject
from deployments.ingress.bodies import Json
from deployments.ingress.control.shapes import (
    InfinityModel,
    InstanceRow,
    OpenAiModel,
    infinity_row,
    instance_row,
    model_row,
)
from deployments.ingress.openapi import described
from deployments.ingress.routing import RouteTable

#: A header of the packages that OpenAI and Anthropic publish: they expect 404 for a model that is not there.
OPENAI = "x-stainless-lang"


class OpenAiModels(TypedDict):
    object: str
    data: list[OpenAiModel]


class InfinityModels(TypedDict):
    object: str
    data: list[InfinityModel]


def router(table: RouteTable, supervisor: SupervisorClient, settings: Settings) -> APIRouter:
    routes = APIRouter(tags=["models"])

    def serving(request: Request) -> list[ModelRoutes]:
        return [model for model in table.visible(request.state.key).values() if model.workers]

    @routes.get("/v1/models")
    @described("The models that serve, as OpenAI's and Xinference's clients read them", OpenAiModels)
    async def list_models(request: Request) -> Json:
        return Json({"object": "list", "data": [model_row(model) for model in serving(request)]})

    @routes.get("/models")
    @described("The models that serve, as Infinity's clients read them", InfinityModels)
    async def list_for_infinity(request: Request) -> Json:
        rows = [infinity_row(model, table, settings) for model in serving(request)]
        return Json({"object": "list", "data": rows})

    @routes.get("/v1/models/instances")
    @described("The wanted models with their replicas", list[InstanceRow])
    async def instances(request: Request, model_name: str | None = None, model_uid: str | None = None) -> Json:
        every = await supervisor.all_statuses()
        rows = [instance_row(status) for status in keys.visible(request.state.key, every)]
        by_name = [row for row in rows if model_name in (None, "", row["model_name"])]
        return Json([row for row in by_name if model_uid in (None, "", row["model_uid"])])

    @routes.get("/v1/models/{uid:path}")
    @described("What a model is and can, by any of its names", JsonObject)
    async def describe(uid: str, request: Request) -> Json:
        try:
            model = table.find(uid, key=request.state.key, request=request.state.request_id)
        except errors.ModelNotFound:
            if OPENAI in request.headers:
                raise
            # Xinference answers 400 to its own clients, which read the status.
            raise errors.UnknownUid(f"Model not found in the model list, uid: {cut(uid)}", "model_uid") from None
        return Json(model_row(model))

    return routes
