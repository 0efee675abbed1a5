"""One stream of what changes in the cluster, for pages that show it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from cluster import errors
from cluster.keys import Key
from cluster.settings import Settings
from deployments.ingress.auth import key_of
from deployments.ingress.control.fleet_news import FleetNews
from deployments.ingress.control.live_shapes import LiveChange
from deployments.ingress.control.topics import Topics, merged
from deployments.ingress.events import Events
from deployments.ingress.openapi import EVENTS, described

#: A stream that is silent for longer is dead, whatever its connection looks like.
BEAT_S = 2.0
NO_TOPICS: list[str] = []
#: A browser that lost its stream asks for the next so many milliseconds later, by itself only after three seconds.
RETRY = b"retry: 1000\n\n"


def watching(
    news: FleetNews, named: Topics, settings: Settings, current_keys: Callable[[], Mapping[str, Key]]
) -> APIRouter:
    routes = APIRouter(tags=["watch"])

    def may_go_on(request: Request) -> bool:
        if not settings.asks_for_keys:
            return True
        try:
            key_of(request, "list", settings, current_keys())
        except (errors.NotAuthenticated, errors.NotPermitted):
            return False
        return True

    @routes.get("/v1/changes")
    @described("All models and nodes, and then each change, as events", LiveChange, media_types=(EVENTS,))
    async def changes(
        request: Request, topic: Annotated[list[str], Query()] = NO_TOPICS, since: str = "", cursor: str = ""
    ) -> Response:
        """The first event has all there is; one with the id of the last that was read, also as `since`, has what came
        after. An event `beat` is a sign of life, and one `ended` says that the key is not valid any more. `topic`,
        as often as there are: `figures:UID` tells each second what that model did, as `/v1/history` does, `figures`
        all models together, and `workers` what each worker does, those that changed;
        `events` what happens, as `/v1/events` does, and `log:UID` the lines that its workers write, all that there are
        first, or those after `cursor`, which the last that were read came with."""
        key: Key | None = request.state.key
        last_id = request.headers.get("last-event-id") or since
        chosen = named.of(topic, key, cursor, goes_on=bool(last_id))
        fleet = news.read(key, last_id, BEAT_S, request.client.host if request.client else "")
        return await Events.of(
            _until_revoked(request, merged(request.app.state.is_ending, fleet, *(each() for each in chosen)), may_go_on)
        )

    return routes


async def _until_revoked(
    request: Request, source: AsyncGenerator[bytes], may_go_on: Callable[[Request], bool]
) -> AsyncGenerator[bytes]:
    is_first = True
    async with aclosing(source) as events:
        async for event in events:
            if not may_go_on(request):
                yield b"event: ended\ndata: {}\n\n"
                return
            yield event
            if is_first:
                yield RETRY
                is_first = False
