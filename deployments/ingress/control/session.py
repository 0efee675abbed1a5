"""What a client asks the server about itself before it does anything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from cluster import keys
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.settings import Settings
from deployments.ingress.auth import cookie_name, keyless, presented_key, session_text
from deployments.ingress.bodies import Json, checked, json_body
from deployments.ingress.control.waiting import until_seen
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


class NewSession(BaseModel):
    key: str = Field(min_length=1, max_length=1000)


class OpenedSession(TypedDict):
    seconds: float


class WhoAmI(TypedDict):
    """What the caller may do; without keys everybody may do everything."""

    name: str | None
    scopes: list[str]
    models: list[str] | None


def entering(
    settings: Settings, current_keys: Callable[[], Mapping[str, keys.Key]], supervisor: SupervisorClient
) -> APIRouter:
    """A client must be able to learn that it needs a key, and to show one."""
    routes = APIRouter(tags=["health"])

    @routes.get("/v1/address")
    @keyless("public")
    @described("The address that the server listens on", str)
    async def address() -> Json:
        return Json(f"{settings.host}:{settings.port}")

    @routes.get("/v1/cluster/auth")
    @keyless("public")
    @described("Whether the server asks for keys", Authentication)
    async def auth() -> Json:
        return Json({"auth": settings.asks_for_keys})

    @routes.post("/token")
    @keyless("proven")
    @described("Log in, as Xinference's clients do: with a key as the password", Token, body=Login)
    async def token(request: Request) -> Json:
        """The key itself: there are no users here, and nothing that would be worth more than it."""
        body: Login = checked(Login, await json_body(request) if await request.body() else {})
        key = body.password or presented_key(request.headers)
        if settings.asks_for_keys:
            keys.check(current_keys(), key, "list")
        return Json({"access_token": key or "none", "token_type": "bearer"})

    @routes.post("/v1/login")
    @keyless("proven")
    @described(
        "Log a browser in with a key: it gets a cookie that stands for the key for a while",
        OpenedSession,
        body=NewSession,
    )
    async def login(request: Request) -> Json:
        body: NewSession = checked(NewSession, await json_body(request))
        if not settings.asks_for_keys:
            return Json({"seconds": keys.SESSION_S})
        key = keys.check(current_keys(), body.key, "list")
        session, text = await supervisor.log_in(key.id)
        await until_seen(lambda: session.digest in current_keys())
        answer = Json({"seconds": keys.SESSION_S})
        _set_cookie(answer, request, settings.port, text, keys.SESSION_S)
        return answer

    return routes


def _set_cookie(answer: Json, request: Request, port: int, text: str, seconds: float) -> None:
    """TLS ends before this server; the page says by which scheme it came."""
    answer.set_cookie(
        cookie_name(port),
        text,
        max_age=int(seconds),
        httponly=True,
        samesite="strict",
        secure=request.headers.get("origin", "").startswith("https://"),
    )


def watching(
    supervisor: SupervisorClient,
    table: RouteTable,
    settings: Settings,
    current_keys: Callable[[], Mapping[str, keys.Key]],
) -> APIRouter:
    routes = APIRouter(tags=["watch"])

    @routes.get("/v1/session")
    @described("Who the caller is, and what he may do", WhoAmI)
    async def who(request: Request) -> Json:
        key = keys.real(request.state.key)
        if key is None:
            return Json({"name": None, "scopes": list(keys.SCOPES), "models": None})
        scopes = keys.SCOPES if "admin" in key.scopes else key.scopes
        return Json({"name": key.name, "scopes": list(scopes), "models": key.models})

    @routes.delete("/v1/session")
    @described("Log a browser out", None)
    async def logout(request: Request) -> Json:
        text = session_text(request, settings.port)
        if text is not None:
            digest = keys.digest_of(text)
            await supervisor.log_out(digest)
            await until_seen(lambda: digest not in current_keys())
        answer = Json(None)
        _set_cookie(answer, request, settings.port, "", 0)
        return answer

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
