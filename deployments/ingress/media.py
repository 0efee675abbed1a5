"""Images and sounds that come with a request: read from data URIs, and from other servers only where that is allowed.

A server that fetches what it is told to can be led to what only it can reach. So an address is looked up once, checked,
and that very address connected to, for each redirect anew; a name cannot mean one thing when it is checked and another
when it is used. Size and time are bounded while the bytes come in.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpcore

from cluster import errors
from cluster.settings import Settings

FETCH_S = 10.0
REDIRECTS = 3
#: Characters of base64 that are read in one go; whole groups of four.
PIECE = 2**20
#: Fetches of one request under way at once.
AT_ONCE = 8

_DATA = re.compile(r"data:(?P<type>[^;,]*)(?P<extras>(?:;[^;,]*)*),", re.IGNORECASE)

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


async def addresses_of(host: str, port: int) -> Sequence[str]:
    results = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in results))


def is_public(text: str) -> bool:
    """Whether an address belongs to the public internet, also when it is wrapped in an IPv6 address."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        # A gateway would unwrap 6to4; site-local addresses were private once.
        elif address.sixtofour is not None or address.is_site_local:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


class _Checked(httpcore.AsyncNetworkBackend):
    """Connects only to addresses that pass; TLS still asks for the name that was given."""

    def __init__(self, resolve: Resolve, allows: Callable[[str], bool]) -> None:
        self._resolve = resolve
        self._allows = allows
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._resolve(host, port)
        # If even one of them is not allowed, none is used: a mix of both looks like an attack.
        if not addresses or not all(map(self._allows, addresses)):
            raise errors.BadRequest(f"{host} is not a public address, and no other is fetched from.")
        failure: Exception | None = None
        for address in addresses:
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        assert failure is not None
        raise failure


@cache
def _certificates() -> ssl.SSLContext:
    """Those of the system, read once: that takes 20 ms, and each of the readers of an ingress needs them."""
    return ssl.create_default_context()


class Fetcher:
    def __init__(
        self,
        most_bytes: int,
        timeout_s: float = FETCH_S,
        resolve: Resolve = addresses_of,
        allows: Callable[[str], bool] = is_public,
    ) -> None:
        self._most_bytes = most_bytes
        self._timeout_s = timeout_s
        self._backend = _Checked(resolve, allows)
        self._ssl = _certificates()

    async def get(self, url: str) -> bytes:
        """What is there, or a `BadRequest` that says why not."""
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                httpcore.AsyncConnectionPool(ssl_context=self._ssl, network_backend=self._backend) as pool,
            ):
                for _ in range(REDIRECTS + 1):
                    body, moved_to = await self._one(pool, url)
                    if moved_to is None:
                        return body
                    url = moved_to
        except TimeoutError:
            raise errors.BadRequest(f"{_shown(url)} did not come within {self._timeout_s:g} s.") from None
        except (
            OSError,
            UnicodeError,
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.TimeoutException,
        ) as error:
            said = str(error).removesuffix(".") or type(error).__name__
            raise errors.BadRequest(f"{_shown(url)} could not be fetched: {said}.") from None
        raise errors.BadRequest(
            f"{_shown(url)} was reached after {REDIRECTS} redirects and redirects further; no more are followed."
        )

    async def _one(self, pool: httpcore.AsyncConnectionPool, url: str) -> tuple[bytes, str | None]:
        """The body, or where it has moved to."""
        _refuse_odd(url)
        headers = [("Accept", "*/*"), ("Accept-Encoding", "identity"), ("User-Agent", "model-cluster")]
        async with pool.stream("GET", url.partition("#")[0], headers=headers) as response:
            headers_back = {name.lower(): value.decode("latin-1") for name, value in response.headers}
            if response.status in (301, 302, 303, 307, 308) and b"location" in headers_back:
                return b"", urljoin(url, headers_back[b"location"])
            if response.status != 200:
                raise errors.BadRequest(f"{_shown(url)} answered {response.status}.")
            if headers_back.get(b"content-encoding", "identity") != "identity":
                raise errors.BadRequest(f"{_shown(url)} came compressed, which was not asked for.")
            length = headers_back.get(b"content-length", "")
            self._refuse_large(url, int(length) if length.isdigit() else 0)
            body = bytearray()
            async for part in response.aiter_stream():
                body += part
                self._refuse_large(url, len(body))
            return bytes(body), None

    def _refuse_large(self, url: str, size: int) -> None:
        if size > self._most_bytes:
            raise errors.TooLarge(f"{_shown(url)} has {size} bytes or more, {self._most_bytes} are allowed.")


def _refuse_odd(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_plain = parts.port != 0 and parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_plain = False
    if not is_plain or "@" in parts.netloc or not url.isascii():
        raise errors.BadRequest(f"{_shown(url)} is not of the kind http://host/path, which is all that is fetched.")


def _shown(url: str) -> str:
    """The address without its query, which may hold a secret."""
    return repr(url.partition("?")[0][:200])


def decoded(text: str, kind: str, most_bytes: int, where: str, param: str = "input") -> bytes:
    """The bytes of a data URI, or of bare base64."""
    head = _DATA.match(text[:1000])
    if head is not None:
        if "base64" not in head["extras"].lower().split(";"):
            raise errors.InvalidBody(f"{where} is a data URI without base64.", param)
        if head["type"].partition("/")[0].lower() not in ("", kind, "application"):
            raise errors.InvalidBody(f"{where} is of the type {head['type']!r}, not {kind}.", param)
        text = text[head.end() :]
    if (size := len(text) * 3 // 4 - text[-2:].count("=")) > most_bytes:
        raise errors.TooLarge(f"{where} has {size} bytes, {most_bytes} are allowed.", param)
    try:
        if "=" in text[:-2]:
            raise ValueError("padding within")
        # In pieces, so that other threads can run in between.
        data = b"".join(base64.b64decode(text[at : at + PIECE], validate=True) for at in range(0, len(text), PIECE))
    except (binascii.Error, ValueError):
        raise errors.InvalidBody(
            f"{where} must be a data URI such as data:{kind}/…;base64,… or base64.", param
        ) from None
    if not data:
        raise errors.InvalidBody(f"{where} is empty.", param)
    return data


async def decoded_aside(text: str, kind: str, most_bytes: int, where: str, param: str = "input") -> bytes:
    """The same, of a long text in a thread."""
    if len(text) < PIECE:
        return decoded(text, kind, most_bytes, where, param)
    return await asyncio.to_thread(decoded, text, kind, most_bytes, where, param)


class MediaReader:
    """Reads the images and sounds of requests, within what the server allows."""

    def __init__(self, settings: Settings, fetcher: Fetcher | None = None, most_bytes: int | None = None) -> None:
        """`most_bytes`: the limit for one file, where it is not that for images and sounds."""
        self._settings = settings
        self._most_bytes = most_bytes or settings.media_bytes
        self._fetcher = fetcher or Fetcher(self._most_bytes)

    async def file(self, value: object, field: str, title: str, within: Sequence[str] = ("image_url",)) -> bytes:
        """A file that stands in JSON: a data URI, base64, an address, or an object that holds one under a name of
        `within`. Errors call it by its title."""
        if isinstance(value, Mapping):
            value = next((value[name] for name in within if value.get(name)), value)
            value = value.get("url") if isinstance(value, Mapping) else value
        if not isinstance(value, str):
            names = " or ".join(within)
            raise errors.InvalidBody(f"{field} must be a data URI, or an object whose {names} is one.", field)
        if not value[:8].lower().startswith(("http://", "https://")):
            return await decoded_aside(value, "image", self._most_bytes, title, field)
        (read,) = await self.read([{"image": value}], field)
        data: bytes = read["image"]
        return data

    async def read(self, items: Sequence[Any], param: str = "input") -> list[Any]:
        """The same inputs, with `{"image": "…"}` and `{"audio": "…"}` read."""
        inputs = list(items)
        waiting: dict[int, tuple[str, str]] = {}
        for position, item in enumerate(items):
            if isinstance(item, Mapping):
                ((kind, text),) = item.items()
                if text[:8].lower().startswith(("http://", "https://")):
                    waiting[position] = (kind, text)
                else:
                    data = await decoded_aside(text, kind, self._most_bytes, f"Input {position}", param)
                    inputs[position] = {kind: data}
        if waiting and not self._settings.fetch_urls:
            raise errors.BadRequest(
                f"Input {min(waiting)} is a URL, and none is fetched unless the server is started with "
                "CLUSTER_FETCH_URLS=true; send a data URI.",
                param,
            )
        left = self._settings.max_body_bytes
        turns = asyncio.Semaphore(AT_ONCE)

        async def fetch(position: int, kind: str, url: str) -> None:
            nonlocal left
            async with turns:
                try:
                    fetched = await self._fetcher.get(url)
                except errors.ClusterError as error:
                    raise type(error)(f"Input {position}: {error.message}", param) from None
            left -= len(fetched)
            if left < 0:
                raise errors.TooLarge(
                    f"What is to be fetched has more than {self._settings.max_body_bytes} bytes, which are allowed for "
                    "one request.",
                    param,
                )
            inputs[position] = {kind: fetched}

        fetches = [asyncio.ensure_future(fetch(position, kind, url)) for position, (kind, url) in waiting.items()]
        try:
            await asyncio.gather(*fetches)
        finally:
            for unfinished in fetches:
                unfinished.cancel()
        return inputs
