"""What a client asks the server about itself before it does anything else."""

from __future__ import annotations

from fastapi import APIRouter, Request
from typing_extensions import TypedDict

from cluster.settings import Settings
from deployments.ingress.bodies import Json
from deployments.ingress.openapi import described
from deployments.ingress.routing import RouteTable
from deployments.ingress.version import VERSION

#: The fields that Xinference's clients expect; all but the first are empty here.
ServerVersion = TypedDict(
    "ServerVersion",
    {"version": str, "full-revisionid": str | None, "dirty": bool, "error": str | None, "date": str | None},
)


class BareVersion(TypedDict):
    version: str


class ServerLoad(TypedDict):
    server_load: int


class Authentication(TypedDict):
    auth: bool


def public(settings: Settings) -> APIRouter:
    """Answered without a key: a client must be able to learn that it needs one."""
    routes = APIRouter(tags=["health"])

    @routes.get("/v1/address")
    @described("The address that the server listens on", str)
    async def address() -> Json:
        return Json(f"{settings.host}:{settings.port}")

    @routes.get("/v1/cluster/auth")
    @described("Whether the server asks for keys", Authentication)
    async def auth() -> Json:
        return Json({"auth": settings.asks_for_keys})

    return routes


def watching(table: RouteTable) -> APIRouter:
    routes = APIRouter(tags=["watch"])

    @routes.get("/version")
    @described("The version of the server, as vLLM's clients read it", BareVersion)
    async def version() -> Json:
        return Json({"version": VERSION})

    @routes.get("/load")
    @described("How many calls are under way, as vLLM's clients read it", ServerLoad)
    async def load(request: Request) -> Json:
        """Calls of this ingress to models that the caller may know of."""
        models = table.visible(request.state.key).values()
        return Json({"server_load": sum(table.in_flight.get(route.worker, 0) for m in models for route in m.workers)})

    @routes.get("/v1/cluster/version")
    @described("The version of the server", ServerVersion)
    async def cluster_version() -> Json:
        return Json({"version": VERSION, "full-revisionid": None, "dirty": False, "error": None, "date": None})

    return routes
