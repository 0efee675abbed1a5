"""Who asks, and what for: keys as they come with requests."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, ParamSpec, TypeVar

from fastapi import Depends, Request, params
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from cluster import keys
from cluster.settings import Settings
from deployments.ingress.origins import Origins

P = ParamSpec("P")
R = TypeVar("R")
#: Why a route asks for no key: everybody may know what it answers, or each request proves that it may be asked.
Keyless = Literal["public", "proven"]

_NOTE = "_route_keyless"
#: Headers that hold nothing but a key: Azure's of OpenAI and Anthropic's.
KEY_HEADERS = ("api-key", "x-api-key")
#: By it a gateway with keys of its own says which of its callers it is who comes with the gateway's key.
CALLER_HEADER = "x-cluster-caller"


def guard(scope: keys.Scope, settings: Settings, current: Callable[[], Mapping[str, keys.Key]]) -> list[params.Depends]:
    """The dependencies of every route that is not `keyless`: none with authentication off, where any key, or none, will
    do, and `request.state.key` stays None."""

    async def check(request: Request) -> None:
        key = key_of(request, scope, settings, current())
        request.state.key = keys.of_caller(key, request.headers.get(CALLER_HEADER, ""))

    return [Depends(check)] if settings.asks_for_keys else []


def keyless(reason: Keyless) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Notes at a route's function, below `@routes.get(...)`, that it asks for no key; all other routes ask for one."""

    def note(endpoint: Callable[P, R]) -> Callable[P, R]:
        vars(endpoint)[_NOTE] = reason
        return endpoint

    return note


def keyless_reason(route: BaseRoute) -> Keyless | None:
    """None where a key is asked for."""
    reason: Keyless | None = vars(route.endpoint).get(_NOTE) if isinstance(route, APIRoute) else None
    return reason


def public_calls(routes: Iterable[BaseRoute]) -> Iterator[tuple[str, str]]:
    """Method and path of each call that everybody may make."""
    for route in routes:
        if isinstance(route, APIRoute) and keyless_reason(route) == "public":
            yield from ((method, route.path) for method in route.methods or ())


def key_of(request: Request, scope: keys.Scope, settings: Settings, current: Mapping[str, keys.Key]) -> keys.Key:
    """The key of a request, or of the session that it comes from, if it may do that."""
    return keys.check(current, presented_key(request.headers) or session_text(request, settings.port), scope)


def presented_key(headers: Mapping[str, str]) -> str | None:
    """The key that came with a request, in the first of the ways in which clients send one."""
    kind, _, text = headers.get("authorization", "").partition(" ")
    ways = (
        # PaddleX's clients say token.
        text.strip() if kind.lower() in ("bearer", "token") else "",
        _of_basic(text.strip()) if kind.lower() == "basic" else "",
        *(headers.get(name, "").strip() for name in KEY_HEADERS),
    )
    return next(filter(None, ways), None)


def cookie_name(port: int) -> str:
    """Browsers send cookies to every port of a machine."""
    return f"cluster-session-{port}"


def session_text(request: Request, port: int) -> str | None:
    """What the browser of somebody who logged in sends by itself: it counts for the pages of this server only, not for
    others on the same machine or of origins that are let in."""
    origin = request.headers.get("origin")
    if origin is not None and not Origins.is_own(origin, request.headers.get("host", "").lower()):
        return None
    return request.cookies.get(cookie_name(port))


def _of_basic(text: str) -> str:
    """The password, or the user where there is none: some web interfaces ask for one, others for both."""
    try:
        user, _, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return ""
    return password or user
