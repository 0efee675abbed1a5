"""What happened: events of a model and of the cluster, and what workers wrote."""

from __future__ import annotations

from fastapi import APIRouter
from typing_extensions import TypedDict

from cluster.runtime.supervisor_client import SupervisorClient
from deployments.ingress.bodies import Json
from deployments.ingress.control.access import by_any_name
from deployments.ingress.control.shapes import EventRow, event_row
from deployments.ingress.openapi import described
from deployments.ingress.routing import RouteTable

#: The most lines of a log that one answer holds.
MOST_LINES = 10_000


class LogLines(TypedDict):
    lines: list[str]


def watching(supervisor: SupervisorClient, table: RouteTable) -> APIRouter:
    routes = APIRouter(tags=["watch"], dependencies=[by_any_name(table)])

    @routes.get("/v1/models/{uid:path}/events")
    @described("What happened to a model", list[EventRow])
    async def events(uid: str) -> Json:
        return Json([event_row(event) for event in await supervisor.events(uid)])

    @routes.get("/v1/models/{uid:path}/logs")
    @described("The last lines that the workers of a model wrote", LogLines)
    async def logs(uid: str, lines: int = 200) -> Json:
        return Json({"lines": await supervisor.logs(uid, max(1, min(lines, MOST_LINES)))})

    @routes.get("/v1/cluster/events")
    @described("What happened to the cluster", list[EventRow])
    async def cluster_events() -> Json:
        """What happened to the cluster itself; events of a model are told by the model's own route."""
        return Json([event_row(event) for event in await supervisor.events("")])

    return routes
