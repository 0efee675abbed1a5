"""What happened: events of a model and of the cluster, and what workers wrote."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from cluster.runtime.supervisor_client import SupervisorClient
from deployments.ingress.bodies import Json
from deployments.ingress.control.access import only_own_models
from deployments.ingress.control.shapes import event_row

#: The most lines of a log that one answer holds.
MOST_LINES = 10_000


def watching(supervisor: SupervisorClient) -> APIRouter:
    routes = APIRouter(tags=["watch"], dependencies=[Depends(only_own_models)])

    @routes.get("/v1/models/{uid}/events")
    async def events(uid: str) -> Json:
        return Json([event_row(event) for event in await supervisor.events(uid)])

    @routes.get("/v1/models/{uid}/logs")
    async def logs(uid: str, lines: int = 200) -> Json:
        return Json({"lines": await supervisor.logs(uid, max(1, min(lines, MOST_LINES)))})

    @routes.get("/v1/cluster/events")
    async def cluster_events() -> Json:
        """What happened to the cluster itself; events of a model are told by the model's own route."""
        return Json([event_row(event) for event in await supervisor.events("")])

    return routes
