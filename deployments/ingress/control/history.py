"""What happened: events of a model and of the cluster, and what workers wrote."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from typing_extensions import TypedDict

from cluster import keys
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.status import EVENT_LEVELS, EventLevel, EventQuery
from deployments.ingress.bodies import Json
from deployments.ingress.control.access import by_any_name, refuse_limited
from deployments.ingress.control.shapes import EventRow, PastEvent, event_row, past_event
from deployments.ingress.control.shared_answers import SharedAnswers
from deployments.ingress.openapi import described
from deployments.ingress.routing import RouteTable

#: The most lines of a log that one answer holds.
MOST_LINES = 10_000
#: The most events.
MOST_EVENTS = 1000
Limit = Annotated[int, Query(ge=1, le=MOST_EVENTS)]
Age = Annotated[float, Query(ge=0, allow_inf_nan=False)]


class LogLines(TypedDict):
    lines: list[str]


def watching(supervisor: SupervisorClient, table: RouteTable) -> APIRouter:
    routes = APIRouter(tags=["watch"], dependencies=[by_any_name(table)])

    async def last_lines(question: tuple[str, int]) -> list[str]:
        return await supervisor.logs(*question)

    shared = SharedAnswers(last_lines)

    @routes.get("/v1/models/{uid:path}/events")
    @described("What happened to a model", list[EventRow])
    async def events(uid: str) -> Json:
        return Json([event_row(event) for event in await supervisor.events(uid)])

    @routes.get("/v1/models/{uid:path}/logs")
    @described("The last lines that the workers of a model wrote", LogLines)
    async def logs(uid: str, lines: int = 200, max_age: Age = 0.0) -> Json:
        """`max_age`: an answer of so many seconds ago will do, which costs nobody anything."""
        return Json({"lines": await shared.answer((uid, max(1, min(lines, MOST_LINES))), max_age)})

    @routes.get("/v1/cluster/events")
    @described("What happened to the cluster", list[EventRow])
    async def cluster_events(request: Request) -> Json:
        """What happened to the cluster itself; events of a model are told by the model's own route."""
        # They name models that made room for others: who may know of one may not know of the other.
        refuse_limited(request)
        return Json([event_row(event) for event in await supervisor.events("")])

    @routes.get("/v1/events")
    @described("What happened to all models and to the cluster itself, the newest first", list[PastEvent])
    async def past_events(
        request: Request,
        limit: Limit = 100,
        before: int | None = None,
        uid: str | None = None,
        level: EventLevel | None = None,
    ) -> Json:
        """`before`: the id of the last event that is there already. `uid`: of this model only. `level`: of this level
        and worse. With a key for some models it is what happened to those."""
        uids = _uids_of(request.state.key, None if uid is None else table.uid_of(uid, request.state.key))
        levels = EVENT_LEVELS[EVENT_LEVELS.index(level) :] if level else EVENT_LEVELS
        query = EventQuery(limit=limit, before=before, uids=uids, levels=levels)
        return Json([past_event(event) for event in await supervisor.recent_events(query)])

    return routes


def _uids_of(key: keys.Key | None, uid: str | None) -> tuple[str, ...] | None:
    """The models that a caller is told of; None for all there are."""
    if uid is not None:
        keys.check_model(key, uid)
        return (uid,)
    return keys.models_of(key)
