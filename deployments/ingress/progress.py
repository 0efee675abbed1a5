"""How far long requests are: what their worker says, or what is counted here where a request takes many calls."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any

from fastapi import Request

from cluster import errors, keys
from cluster.calls import View
from cluster.keys import Key
from cluster.routes import ModelRoutes
from cluster.versioned import Versioned
from deployments.abilities import SLOW
from deployments.ingress.dispatch import Dispatcher
from deployments.ingress.serving import owner_of

#: How soon to ask again about a request that no worker knows yet.
UNKNOWN_S = 0.1


class RequestProgress:
    """The progress of every request of this ingress, by its model and its owner."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        #: Requests of many calls, of which no worker knows the whole; by the model's uid and the request's owner.
        self._counted: dict[tuple[str, str], Versioned[View]] = {}

    @contextlib.contextmanager
    def counting(self, uid: str, owner: str, steps: int) -> Iterator[Versioned[View]]:
        """Meanwhile the progress of that request is what the caller writes into the value."""
        view = self._counted[uid, owner] = Versioned(View(0, "running", stage="reading", steps=steps))
        try:
            yield view
        finally:
            self._counted.pop((uid, owner), None)

    async def watch(self, model: ModelRoutes, owner: str, seen: int = -1, wait_s: float = 0.0) -> View | None:
        """How far a request is, as soon as it is not what was seen; None when nobody knows it."""
        counted = self._counted.get((model.uid, owner))
        if counted is None:
            return await self._dispatcher.watch(model, owner, seen, wait_s)
        _, view = await counted.newer(seen, wait_s)
        return view

    async def name(self, request: Request, model: ModelRoutes, request_id: str | None, *, streams: bool) -> None:
        """Gives a request the id that its body asks for. Callers watch and stop requests by their id, so nobody else
        may have it at the time; the id of a header only counts for that where the answer is a stream."""
        if request_id is not None:
            request.state.request_id = request_id
        elif not (streams and "x-request-id" in request.headers):
            return
        view = await self.watch(model, owner_of(request))
        if view is not None and view.state in ("waiting", "running"):
            raise errors.Conflict(f"Duplicate request id: {request.state.request_id}", "request_id")

    async def find(self, key: Key | None, request_id: str) -> View | None:
        """How far a request of this key is, whichever model works on it; one under way counts before one that ended."""
        owner = keys.owner_of(request_id, key.id if key else None)
        models = self._dispatcher.table.able(key, SLOW)
        views = await asyncio.gather(*(self.watch(model, owner) for model in models))
        answered = [view for view in views if view is not None]
        return min(answered, key=lambda view: view.state not in ("running", "waiting"), default=None)


async def views(
    answer: asyncio.Future[Any], watch: Callable[[int, float], Awaitable[View | None]], beat_s: float
) -> AsyncGenerator[View | None]:
    """How far a request is, whenever that changes, and at least every so often, until it is answered."""
    last = -1
    while not answer.done():
        watching = asyncio.ensure_future(watch(last, beat_s))
        try:
            await asyncio.wait((answer, watching), timeout=beat_s, return_when=asyncio.FIRST_COMPLETED)
            view = watching.result() if watching.done() else None
        finally:
            watching.cancel()
        is_new = view is not None and view.version > last
        if not answer.done() and watching.done() and not is_new:
            await asyncio.wait((answer,), timeout=min(UNKNOWN_S, beat_s))
        if not answer.done():
            last = view.version if view is not None else last
            yield view if is_new else None
