"""The description of the routes: as an OpenAPI document, and as a page that shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from fastapi import APIRouter, Response
from starlette.routing import BaseRoute

from cluster.settings import Settings
from deployments.ingress.bodies import Json
from deployments.ingress.middleware import PUBLIC
from deployments.ingress.openapi import document

FOLDER = Path(__file__).parent.parent / "docs"
#: The page needs nothing from elsewhere, so its browser is told to load nothing from there.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def public() -> APIRouter:
    """The page holds nothing of the server's: it asks for a key where one is needed, and reads the document with it."""
    routes = APIRouter(tags=["docs"], include_in_schema=False)

    @routes.get("/docs")
    async def page() -> Response:
        return _file("page.html", "text/html")

    @routes.get("/docs/page.js")
    async def script() -> Response:
        return _file("page.js", "text/javascript")

    @routes.get("/docs/page.css")
    async def style() -> Response:
        return _file("page.css", "text/css")

    return routes


@lru_cache
def _text(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


def _file(name: str, media_type: str) -> Response:
    return Response(_text(name), media_type=media_type, headers=HEADERS)


def watching(routes_of_app: Callable[[], Sequence[BaseRoute]], settings: Settings) -> APIRouter:
    """Where keys are asked for, the document is for callers who have one."""
    routes = APIRouter(tags=["docs"], include_in_schema=False)

    @lru_cache(maxsize=1)
    def whole() -> bytes:
        return bytes(Json(document(routes_of_app(), asks_for_keys=settings.asks_for_keys, public=PUBLIC)).body)

    @routes.get("/openapi.json")
    async def openapi() -> Response:
        return Response(await asyncio.to_thread(whole), media_type="application/json")

    return routes
