"""The description of the routes: as an OpenAPI document, and as a page that shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.routing import BaseRoute

from cluster.settings import Settings
from deployments.ingress.auth import keyless
from deployments.ingress.bodies import Json
from deployments.ingress.control.web_files import answer
from deployments.ingress.openapi import document

FOLDER = Path(__file__).parent.parent / "docs"


def page() -> APIRouter:
    """The page holds nothing of the server's: it asks for a key where one is needed, and reads the document with it."""
    routes = APIRouter(tags=["docs"], include_in_schema=False)

    @routes.get("/docs")
    @keyless("public")
    async def html(request: Request) -> Response:
        return answer(request, FOLDER / "page.html")

    @routes.get("/docs/page.js")
    @keyless("public")
    async def script(request: Request) -> Response:
        return answer(request, FOLDER / "page.js")

    @routes.get("/docs/page.css")
    @keyless("public")
    async def style(request: Request) -> Response:
        return answer(request, FOLDER / "page.css")

    return routes


def watching(routes_of_app: Callable[[], Sequence[BaseRoute]], settings: Settings) -> APIRouter:
    """Where keys are asked for, the document is for callers who have one."""
    routes = APIRouter(tags=["docs"], include_in_schema=False)

    @lru_cache(maxsize=1)
    def whole() -> bytes:
        return bytes(Json(document(routes_of_app(), asks_for_keys=settings.asks_for_keys)).body)

    @routes.get("/openapi.json")
    async def openapi() -> Response:
        return Response(await asyncio.to_thread(whole), media_type="application/json")

    return routes
