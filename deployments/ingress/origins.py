"""Keeps pages of strangers out: a browser sends requests here for any page that its user has open.

It says which page that was in `Origin`, and where it sends none, how near the page is in `Sec-Fetch-Site`. Whoever owns
a name can let it lead to this machine (DNS rebinding): then both look like pages of this server, and only the name in
`Host` is wrong. Programs that are no browser send what they like and are not meant: keys are for those.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster import errors
from cluster.names import quoted
from cluster.settings import Settings

#: Pictures that were answered as addresses, which pages are meant to show; nobody can guess their names.
FILES = "/v1/files/"
#: How long a browser remembers what a page may send.
PREFLIGHT_S = b"600"
#: Good hosts that are remembered: a lookup takes a tenth of the time of parsing.
REMEMBERED = 256

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^:\[\]/@\s]+))(?::\d{1,5})?", re.ASCII)
#: What a preflight may contain: names of methods and headers.
_TOKENS = re.compile(rb"[\w!#$%&'*+.^`|~, -]{0,2000}", re.ASCII)


@dataclass(frozen=True)
class Origins:
    """The names of this server, and the pages that may call it."""

    hosts: frozenset[str]
    origins: frozenset[str]
    #: With keys a page under a wrong name has gained nothing: its browser has no key for that name.
    takes_any_host: bool
    #: Beyond loopback a server is reached by many addresses, of which it knows only its own. None of them can be
    #: somebody else's name.
    takes_any_address: bool
    #: Any page may ask models, with a key that it was given.
    lets_all_infer: bool

    @classmethod
    def of(cls, settings: Settings) -> Origins:
        return cls(
            frozenset({"localhost", settings.host.lower(), *settings.allowed_hosts}),
            frozenset(settings.allowed_origins) - {"*"},
            settings.asks_for_keys,
            not settings.is_loopback,
            settings.asks_for_keys and "*" in settings.allowed_origins,
        )

    def knows(self, host: str) -> bool:
        """Whether a `Host` header names this server."""
        parts = _HOST.fullmatch(host.lower())
        if parts is None:
            return False
        name = (parts[1] or parts[2]).removesuffix(".")
        if name in self.hosts:
            return True
        try:
            address = ip_address(name)
        except ValueError:
            return False
        return self.takes_any_address or address.is_loopback

    def check_host(self, host: str) -> None:
        """Raises for a host name that is not this server's. Browsers always send one."""
        if host and not self.knows(host):
            name = host.rpartition(":")[0] or host
            raise errors.NotPermitted(
                f"This server is not called {quoted(name)}: use localhost or the address it was started with, or start "
                "it with that name in allowed_hosts (CLUSTER_ALLOWED_HOSTS)."
            )

    def allows(self, origin: str, infers: bool) -> str | None:
        """What is answered to a page of another origin: which origins may read it. None when it may not call."""
        if origin in self.origins:
            return origin
        return "*" if self.lets_all_infer and infers else None

    @staticmethod
    def is_own(origin: str, host: str) -> bool:
        """TLS ends before this server, so a page of its own may have come by either scheme."""
        return bool(host) and origin in (f"http://{host}", f"https://{host}")


def refused(origin: str) -> errors.NotPermitted:
    return errors.NotPermitted(
        f"Web pages of {quoted(origin)} may not call this server: where they should, start it with that origin in "
        "allowed_origins (CLUSTER_ALLOWED_ORIGINS)."
    )


def is_inert(method: str, path: str, mode: bytes | None, target: bytes | None) -> bool:
    """What a page may do to any other without leave: send its user there, and show pictures that are made to be shown.
    Neither lets it read anything."""
    if method not in ("GET", "HEAD"):
        return False
    return (mode == b"navigate" and target == b"document") or _is_picture(path)


def _is_picture(path: str) -> bool:
    """Uploaded documents are beside the pictures, under names without an extension."""
    name = path.removeprefix(FILES)
    return name != path and "/" not in name and "." in name


class OriginMiddleware:
    """Stands before all routes, and before the answer that there is no such route."""

    def __init__(self, app: ASGIApp, origins: Origins, infer_paths: Sequence[re.Pattern[str]]) -> None:
        self._app = app
        self._origins = origins
        self._infer_paths = infer_paths
        # An exception is not cached, so only good hosts are remembered.
        self._check_host = lru_cache(REMEMBERED)(origins.check_host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._origins.takes_any_host:
            self._check_host(host)
        origin = headers.get(b"origin")
        if origin is None:
            site = headers.get(b"sec-fetch-site", b"none")
            mode, target = headers.get(b"sec-fetch-mode"), headers.get(b"sec-fetch-dest")
            if site not in (b"none", b"same-origin") and not is_inert(scope["method"], scope["path"], mode, target):
                raise refused("another site")
            await self._app(scope, receive, send)
        elif self._origins.is_own(origin.decode("latin-1"), host.lower()):
            await self._app(scope, receive, send)
        else:
            await self._answer_page(origin.decode("latin-1"), headers, scope, receive, send)

    async def _answer_page(
        self, origin: str, headers: dict[bytes, bytes], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """A page of another origin."""
        infers = any(path.match(scope["path"]) for path in self._infer_paths)
        allowed = self._origins.allows(origin, infers)
        if allowed is None:
            raise refused(origin)
        headers_back = [(b"access-control-allow-origin", allowed.encode()), (b"vary", b"Origin")]

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *headers_back, (b"access-control-expose-headers", b"*")]
            await send(message)

        method = headers.get(b"access-control-request-method")
        if scope["method"] != "OPTIONS" or method is None:
            await self._app(scope, receive, tell)
            return
        names = headers.get(b"access-control-request-headers", b"")
        if not _TOKENS.fullmatch(method) or not _TOKENS.fullmatch(names):
            raise errors.BadRequest(
                "The browser asks permission for something that is not the name of a method or header."
            )
        response = Response(status_code=204)
        response.raw_headers += [
            *headers_back,
            (b"access-control-allow-methods", method),
            (b"access-control-allow-headers", names),
            (b"access-control-max-age", PREFLIGHT_S),
        ]
        await response(scope, receive, send)


def address_of(request: HTTPConnection, origins: Origins) -> str:
    """Where links to this server lead: to the name it was called by if that is its own, else to the address it listens
    on. A caller cannot choose another."""
    host = request.headers.get("host", "")
    if not origins.knows(host):
        address, port = request.scope["server"]
        host = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    return f"{request.url.scheme}://{host}"
