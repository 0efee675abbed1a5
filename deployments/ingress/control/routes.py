"""What serves here under which names, and what has changed of it: a gateway before several clusters asks for that."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from typing_extensions import TypedDict

from cluster import keys
from cluster.routes import ModelRoutes
from deployments.ingress.bodies import Json
from deployments.ingress.dispatch import Dispatcher
from deployments.ingress.openapi import described

#: The longest that a question for news is held.
LONGEST_WAIT_S = 30.0


class RoutedModel(TypedDict):
    uid: str
    #: What it answers to besides its uid: the text, where it comes from, and its weight among those of that name.
    names: list[tuple[str, int, float | None]]
    workers: int


class RoutedModels(TypedDict):
    version: int
    #: The version from which these are the differences; null where these are all models.
    since: int | None
    models: list[RoutedModel]
    gone: list[str]


def watching(dispatcher: Dispatcher) -> APIRouter:
    routes = APIRouter(tags=["watch"])
    table = dispatcher.table

    @routes.get("/v1/cluster/routes")
    @described("The models with their names and workers, or what has changed since a version", RoutedModels)
    async def changes(
        request: Request, since: int = -1, wait: Annotated[float, Query(ge=0, allow_inf_nan=False)] = 0.0
    ) -> Json:
        """With `wait`, the answer comes as soon as there is a newer version."""
        if since >= 0:
            await dispatcher.newer(since, min(wait, LONGEST_WAIT_S))
        uids = table.changed_since(since)
        models = table.visible(request.state.key)
        chosen = models if uids is None else keys.visible(request.state.key, uids, str)
        body: RoutedModels = {
            "version": table.version,
            "since": None if uids is None else since,
            "models": [_routed(models[uid]) for uid in chosen if uid in models],
            "gone": [uid for uid in chosen if uid not in models],
        }
        return Json(body)

    return routes


def _routed(model: ModelRoutes) -> RoutedModel:
    names = [(name.text, int(name.kind), name.weight) for name in model.names]
    return {"uid": model.uid, "names": names, "workers": len(model.workers)}
