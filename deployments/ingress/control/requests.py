"""What models work on right now, for those who look: how far each request is, and what it shows; never what was
asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException
from typing_extensions import TypedDict

from cluster import keys
from cluster.calls import OpenCall
from cluster.keys import Key
from cluster.routes import ModelRoutes
from deployments.ingress.bodies import Json
from deployments.ingress.dispatch import Dispatcher
from deployments.ingress.openapi import described

#: How the files of pictures begin; whatever else a model shows is not sent as one.
PICTURES = {b"\x89PNG": "image/png", b"\xff\xd8": "image/jpeg", b"RIFF": "image/webp"}


#: How long no call of a request that was stopped is taken: one may be on its way.
BLOCK_S = 30.0


class RequestRow(TypedDict):
    #: As its caller or the server named it.
    id: str
    model: str
    type: str
    state: str
    stage: str
    step: int
    steps: int
    #: Of the whole request, 0 to 1.
    progress: float
    eta_s: float | None
    age_s: float
    #: How many there are to look at so far.
    previews: int
    #: The name of the key that it came with, where callers have keys.
    key: str | None
    #: Whether it came with the key of whoever asks.
    mine: bool


class RequestRows(TypedDict):
    requests: list[RequestRow]


class StoppedRequests(TypedDict):
    stopped: int


class UnderWay(NamedTuple):
    """One request of a caller, which may be several calls."""

    model: ModelRoutes
    owner: str
    calls: Sequence[OpenCall]


def watching(dispatcher: Dispatcher, current_keys: Callable[[], Mapping[str, Key]]) -> APIRouter:
    routes = APIRouter(tags=["watch"])

    @routes.get("/v1/requests")
    @described("The requests that models work on: pictures, pages and conversations, the oldest first", RequestRows)
    async def under_way(request: Request) -> Json:
        key = request.state.key
        names = {each.id: each.name for each in current_keys().values()}
        rows = [_row(each, key, names) for each in await requests_open_to(dispatcher, key)]
        return Json({"requests": sorted(rows, key=lambda row: -row["age_s"])})

    @routes.get("/v1/requests/{request_id}/preview")
    @described("The latest preview of a picture that is being drawn", bytes)
    async def preview(request_id: str, request: Request) -> Response:
        """Where its caller asked for previews."""
        key = request.state.key
        for each in await requests_open_to(dispatcher, key):
            if keys.request_of(each.owner) != request_id:
                continue
            view = await dispatcher.watch(each.model, each.owner)
            latest = view.previews[-1] if view is not None and view.previews else b""
            kind = next((kind for start, kind in PICTURES.items() if latest.startswith(start)), None)
            if kind is not None:
                headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
                return Response(latest, media_type=kind, headers=headers)
        raise HTTPException(404, f"The request {request_id!r:.150} shows nothing, or not any more.")

    return routes


def stopping(dispatcher: Dispatcher) -> APIRouter:
    routes = APIRouter(tags=["requests"])

    @routes.delete("/v1/requests/{request_id}")
    @described("Stop a request that a model works on", StoppedRequests)
    async def stop(request_id: str, request: Request, model: str | None = None) -> Json:
        """One's own, and with the scope admin anybody's. Where callers have used an id more than once, all of that id,
        or those to `model`."""
        key = request.state.key
        uid = None if model is None else dispatcher.table.uid_of(model, key)
        requests = await requests_open_to(dispatcher, key, uid)
        chosen = [each for each in requests if keys.request_of(each.owner) == request_id]
        aborts = [dispatcher.abort(each.model, each.owner, BLOCK_S) for each in chosen]
        stopped = sum(await asyncio.gather(*aborts))
        if not stopped:
            raise HTTPException(404, f"No model works on a request {request_id!r:.150} that this key may stop.")
        return Json({"stopped": stopped})

    return routes


async def requests_open_to(dispatcher: Dispatcher, key: Key | None, uid: str | None = None) -> list[UnderWay]:
    """A key is told of its own requests, one with the scope admin of all. `uid`: only of those to this model, and no
    other is asked."""
    models = [model for model in dispatcher.table.visible(key).values() if uid in (None, model.uid)]
    calls = await asyncio.gather(*map(dispatcher.under_way, models))
    requests = [request for model, its in zip(models, calls, strict=True) for request in _requests_of(model, its)]
    return [request for request in requests if _may_look(key, request.owner)]


def _may_look(key: Key | None, owner: str) -> bool:
    return key is None or "admin" in key.scopes or _key_id(owner) == key.id


def _key_id(owner: str) -> str | None:
    return owner.partition("@")[2] or None


def _requests_of(model: ModelRoutes, calls: Sequence[OpenCall]) -> list[UnderWay]:
    """The calls of one request together."""
    by_owner: dict[str, list[OpenCall]] = {}
    for call in calls:
        by_owner.setdefault(call.owner.partition("#")[0], []).append(call)
    return [UnderWay(model, owner, its) for owner, its in by_owner.items()]


def _row(request: UnderWay, key: Key | None, names: Mapping[str, str]) -> RequestRow:
    views = [call.view for call in request.calls]
    # The one that has come furthest says what is done now.
    front = max(views, key=lambda view: (view.state == "running", view.fraction))
    etas = [view.eta_s for view in views if view.eta_s is not None]
    owner = _key_id(request.owner)
    return {
        "id": keys.request_of(request.owner),
        "model": request.model.uid,
        "type": request.model.launched.type,
        "state": front.state,
        "stage": front.stage,
        "step": front.step,
        "steps": front.steps,
        "progress": sum(view.fraction for view in views) / len(views),
        "eta_s": max(etas, default=None),
        "age_s": max(call.age_s for call in request.calls),
        "previews": max(call.previews for call in request.calls),
        "key": names.get(owner) if owner else None,
        "mine": owner == (key.id if key else None),
    }
