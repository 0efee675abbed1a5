"""The web page of the cluster, as it was built from the sources in `page/`."""

from __future__ import annotations

import time
from pathlib import Path

from fastapi import APIRouter, Request, Response

from deployments.ingress.auth import keyless
from deployments.ingress.bodies import Json
from deployments.ingress.control.health import Health
from deployments.ingress.control.web_files import POLICY, TEXT_ONLY, answer

FOLDER = Path(__file__).parents[2] / "ui"


def router() -> APIRouter:
    """The page holds nothing of the cluster's: what it shows it asks for, with a key where one is needed."""
    routes = APIRouter(tags=["page"], include_in_schema=False)

    @routes.get("/")
    @keyless("public")
    async def root(request: Request) -> Response:
        """A browser is led to the page, by an address relative to its own: a proxy may have put a path before it."""
        if "text/html" in request.headers.get("accept", ""):
            return Response(status_code=307, headers={"Location": "ui/", "Vary": "Accept"})
        body: Health = {"status": "ok", "unix": time.time()}
        return Json(body)

    @routes.get("/ui")
    @keyless("public")
    async def without_slash() -> Response:
        return Response(status_code=307, headers={"Location": "ui/"})

    @routes.get("/ui/")
    @keyless("public")
    async def page(request: Request) -> Response:
        return _file(request, "index.html")

    @routes.get("/ui/page.js")
    @keyless("public")
    async def script(request: Request) -> Response:
        return _file(request, "page.js")

    @routes.get("/ui/page.css")
    @keyless("public")
    async def style(request: Request) -> Response:
        return _file(request, "page.css")

    return routes


def _file(request: Request, name: str) -> Response:
    return answer(request, FOLDER / name, f"{POLICY}; {TEXT_ONLY}")
