"""What a client asks the server about itself before it does anything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fastapi import APIRouter, Request
from pydantic import BaseModel
from typing_extensions import TypedDict

from cluster import keys
from cluster.settings import Settings
from deployments.ingress.auth import presented_key
from deployments.ingress.bodies import Json, checked, json_body
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


class Login(BaseModel):
    username: str = ""
    password: str = ""


class Token(TypedDict):
    access_token: str
    token_type: str


def public(settings: Settings, current_keys: Callable[[], Mapping[str, keys.Key]]) -> APIRouter:
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

    @routes.post("/token")
    @described("Log in, as Xinference's clients do: with a key as the password", Token, body=Login)
    async def token(request: Request) -> Json:
        """The key itself: there are no users here, and nothing that would be worth more than it."""
        body: Login = checked(Login, await json_body(request) if await request.body() else {})
        key = body.password or presented_key(request.headers)
        if settings.asks_for_keys:
            keys.check(current_keys(), key, "list")
        return Json({"access_token": key or "none", "token_type": "bearer"})

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
