"""What models work on right now, for those who look: how far each request is, and what it shows; never what was
asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException
from typing_extensions import TypedDict

from cluster import keys
from cluster.calls import OpenCall
from cluster.keys import Key
from cluster.routes import ModelRoutes
from cluster.runtime.worker_client import WorkerClient
from deployments.ingress.asking import asked
from deployments.ingress.bodies import Json
from deployments.ingress.control.shared_answers import SharedAnswers
from deployments.ingress.dispatch import Dispatcher
from deployments.ingress.openapi import described

#: How the files of pictures begin; whatever else a model shows is not sent as one.
PICTURES = {b"\x89PNG": "image/png", b"\xff\xd8": "image/jpeg", b"RIFF": "image/webp"}

#: How old an answer of the workers may be that several callers are given.
SHARED_S = 0.2
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


class RequestsUnderWay:
    """All that is under way, which workers are asked for at most once in a while, however many want to know."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self._shared = SharedAnswers(self._under_way)

    async def _under_way(self, uids: tuple[str, ...] | None) -> list[UnderWay]:
        """Of a worker that does not answer, nothing."""
        models = self.dispatcher.table.models
        chosen = [models[uid] for uid in (models if uids is None else uids) if uid in models]
        workers = [(model, client) for model in chosen for client in self.dispatcher.clients_of(model)]
        answers = await asked((client for _, client in workers), _calls_of)
        return _requests_of((model, call) for (model, _), calls in zip(workers, answers, strict=True) for call in calls)

    async def of(self, key: Key | None) -> list[UnderWay]:
        """A key is told of its own requests, one with the scope admin of all."""
        every = await self._shared.answer(keys.models_of(key), SHARED_S)
        return [request for request in every if keys.reaches(key, _key_id(request.owner))]

    async def now_of(self, key: Key | None, uid: str | None) -> list[UnderWay]:
        """Also of what has just begun. `uid`: only of those to this model, and no other is asked."""
        if uid is not None and uid not in self.dispatcher.table.visible(key):
            return []
        uids = (uid,) if uid is not None else keys.models_of(key)
        every = await self._shared.new_answer(uids, SHARED_S)
        return [request for request in every if keys.reaches(key, _key_id(request.owner))]


async def _calls_of(client: WorkerClient) -> Sequence[OpenCall]:
    try:
        return await client.under_way()
    # Whatever one of them answers, the others are told of.
    except Exception:
        return ()


def watching(requests: RequestsUnderWay, current_keys: Callable[[], Mapping[str, Key]]) -> APIRouter:
    routes = APIRouter(tags=["watch"])

    @routes.get("/v1/requests")
    @described("The requests that models work on: pictures, pages and conversations, the oldest first", RequestRows)
    async def under_way(request: Request) -> Json:
        key = request.state.key
        names = {each.id: each.name for each in current_keys().values()}
        rows = [_row(each, key, names) for each in await requests.of(key)]
        return Json({"requests": sorted(rows, key=lambda row: -row["age_s"])})

    @routes.get("/v1/requests/{request_id}/preview")
    @described("The latest preview of a picture that is being drawn", bytes)
    async def preview(request_id: str, request: Request) -> Response:
        """Where its caller asked for previews."""
        key = request.state.key
        for each in await requests.of(key):
            if keys.request_of(each.owner) != request_id:
                continue
            view = await requests.dispatcher.watch(each.model, each.owner)
            latest = view.previews[-1] if view is not None and view.previews else b""
            kind = next((kind for start, kind in PICTURES.items() if latest.startswith(start)), None)
            if kind is not None:
                headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
                return Response(latest, media_type=kind, headers=headers)
        raise HTTPException(404, f"The request {request_id!r:.150} shows nothing, or not any more.")

    return routes


def stopping(requests: RequestsUnderWay) -> APIRouter:
    routes = APIRouter(tags=["requests"])
    dispatcher = requests.dispatcher

    @routes.delete("/v1/requests/{request_id}")
    @described("Stop a request that a model works on", StoppedRequests)
    async def stop(request_id: str, request: Request, model: str | None = None) -> Json:
        """One's own, and with the scope admin anybody's. Where callers have used an id more than once, all of that id,
        or those to `model`."""
        key = request.state.key
        uid = None if model is None else dispatcher.table.uid_of(model, key)
        every = await requests.now_of(key, uid)
        chosen = [each for each in every if keys.request_of(each.owner) == request_id]
        aborts = [dispatcher.abort(each.model, each.owner, BLOCK_S) for each in chosen]
        stopped = sum(await asyncio.gather(*aborts))
        if not stopped:
            raise HTTPException(404, f"No model works on a request {request_id!r:.150} that this key may stop.")
        return Json({"stopped": stopped})

    return routes


def _key_id(owner: str) -> str | None:
    return owner.partition("@")[2] or None


def _requests_of(calls: Iterable[tuple[ModelRoutes, OpenCall]]) -> list[UnderWay]:
    """The calls of one request together."""
    by_owner: dict[tuple[str, str], tuple[ModelRoutes, list[OpenCall]]] = {}
    for model, call in calls:
        owner = call.owner.partition("#")[0]
        by_owner.setdefault((model.uid, owner), (model, []))[1].append(call)
    return [UnderWay(model, owner, its) for (_, owner), (model, its) in by_owner.items()]


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
        "key": names.get(keys.shared_id(owner)) if owner else None,
        "mine": owner == (key.id if key else None),
    }
