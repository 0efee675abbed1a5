"""One cell: its connections, and what it says of itself for as long as it answers."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import httpcore
import orjson

from cluster import errors
from cluster.value import JsonObject
from deployments.gateway.config import CellAddress

log = logging.getLogger("cluster.gateway")

Headers = list[tuple[bytes, bytes]]

#: How long a cell may hold a question for news, and how much longer its answer may take before the cell is left out.
WATCH_S = 2.0
PATIENCE_S = 3.0
#: Pauses before a cell that does not answer is asked again.
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
CONNECT_S = 2.0
#: Connections of cells close after 65 s without a request.
KEPT_S = 30.0
#: What a list of a cell, or its refusal, may hold.
MOST_BYTES = 100_000_000

_BROKEN = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException)


class CellLost(Exception):
    """Nothing was answered. `was_sent`: the cell may have begun all the same."""

    def __init__(self, cell: str, reason: str, was_sent: bool) -> None:
        super().__init__(f"{cell}: {reason}")
        self.was_sent = was_sent


class Unanswered:
    """A request whose answer has not begun."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.is_lost = False

    def lose(self) -> None:
        self.is_lost = True
        self.task.cancel()


class CellAnswer:
    """An answer that was read to its end."""

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class Cell:
    def __init__(self, address: CellAddress, needs_keys: bool, took: Callable[[JsonObject | None], None]) -> None:
        """`needs_keys`: it is left out unless it asks its callers for keys. `took` is told what it says of its models,
        and None when it stops answering."""
        self.address = address
        self.name = address.name
        self.is_live = False
        #: Why it is left out.
        self.reason = "it has not been asked yet"
        self._needs_keys = needs_keys
        self._took = took
        parts = urlsplit(address.url)
        self._scheme, self._host = parts.scheme.encode(), (parts.hostname or "").encode()
        self._port = parts.port
        self._host_header = (b"host", parts.netloc.rpartition("@")[2].encode())
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEPT_S
        )
        self._waiting: set[Unanswered] = set()
        self._version = -1

    # ------------------------------------------------------------------------------------------------- requests

    async def open(self, method: str, target: bytes, headers: Headers, body: bytes) -> httpcore.Response:
        """The answer as soon as its head is there. Whoever opens it closes it."""
        return await self._open(method, target, headers, body, {"connect": CONNECT_S})

    async def _open(
        self, method: str, target: bytes, headers: Headers, body: bytes, timeout: dict[str, float]
    ) -> httpcore.Response:
        length = [(b"content-length", str(len(body)).encode())] if body or method not in ("GET", "DELETE") else []
        request = httpcore.Request(
            method,
            httpcore.URL(scheme=self._scheme, host=self._host, port=self._port, target=target),
            headers=[self._host_header, *headers, *length],
            content=body,
            extensions={"timeout": timeout},
        )
        waiting = Unanswered()
        self._waiting.add(waiting)
        try:
            return await self._pool.handle_async_request(request)
        except asyncio.CancelledError:
            # Whoever asked may have left in the same moment.
            if not waiting.is_lost or waiting.task.uncancel() > 0:
                raise
            raise CellLost(self.name, self.reason, was_sent=True) from None
        except _BROKEN as error:
            was_sent = not isinstance(error, (httpcore.ConnectError, httpcore.ConnectTimeout))
            raise CellLost(self.name, _reason_of(error), was_sent) from None
        finally:
            self._waiting.discard(waiting)

    async def ask(self, method: str, target: bytes, headers: Headers, body: bytes = b"") -> CellAnswer:
        return await self.read(await self.open(method, target, headers, body))

    async def read(self, answer: httpcore.Response) -> CellAnswer:
        pieces, size = [], 0
        try:
            async for piece in answer.aiter_stream():
                size += len(piece)
                if size > MOST_BYTES:
                    raise errors.TooLarge(f"Cell {self.name} answers more than {MOST_BYTES} bytes.")
                pieces.append(piece)
        except _BROKEN as error:
            raise CellLost(self.name, _reason_of(error), was_sent=True) from None
        finally:
            await answer.aclose()
        return CellAnswer(answer.status, answer.headers, b"".join(pieces))

    async def close(self) -> None:
        await self._pool.aclose()

    # ----------------------------------------------------------------------------------------------------- news

    async def watch(self) -> None:
        """Follows what the cell says of its models. A cell that stops answering is left out until it answers again,
        and requests that wait for it are free to go elsewhere."""
        pause = FIRST_PAUSE_S
        while True:
            try:
                await self._take_news()
                pause = FIRST_PAUSE_S
                continue
            except CellLost as lost:
                self._leave_out(str(lost))
            except errors.ClusterError as error:
                self._leave_out(error.message)
            # A watch that ends would leave the cell out, or in, for ever.
            except Exception as error:
                log.exception("cell %s could not be read", self.name)
                self._leave_out(f"{type(error).__name__}: {error}")
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(LONGEST_PAUSE_S, pause * 2)

    async def _take_news(self) -> None:
        if not self.is_live and self._needs_keys:
            auth = await self._asked(b"/v1/cluster/auth")
            if not auth["auth"]:
                raise errors.NotPermitted(
                    "it asks nobody for keys, and this gateway lets others than this machine call it: start the cell "
                    "with --auth on, or give the gateway keys of its own (--keys-file)"
                )
        since = self._version if self.is_live else -1
        news = await self._asked(f"/v1/cluster/routes?since={since}&wait={WATCH_S}".encode())
        if news["version"] < 0:
            raise errors.Unavailable("it does not know its models yet")
        is_new = news["version"] != self._version or not self.is_live
        self._version = news["version"]
        if not self.is_live:
            log.warning("cell %s answers, with %d models", self.name, len(news["models"]))
        self.is_live, self.reason = True, ""
        if is_new:
            self._took(news)

    async def _asked(self, target: bytes) -> JsonObject:
        key = self.address.key
        headers = [(b"authorization", b"Bearer " + key.encode())] if key else []
        timeout = {"connect": CONNECT_S, "read": WATCH_S + PATIENCE_S}
        answer = await self.read(await self._open("GET", target, headers, b"", timeout))
        if answer.status == 401:
            raise errors.NotAuthenticated(f"it takes another key; store one with `cluster login -e {self.address.url}`")
        if answer.status != 200:
            raise errors.Unavailable(f"it answers {answer.status} to {target.partition(b'?')[0].decode()}")
        body: JsonObject = orjson.loads(answer.body)
        return body

    def _leave_out(self, reason: str) -> None:
        if reason != self.reason:
            log.warning("cell %s is left out: %s", self.name, reason)
        was_live, self.is_live, self.reason = self.is_live, False, reason
        if was_live:
            self._took(None)
            for waiting in tuple(self._waiting):
                waiting.lose()


def header(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> bytes:
    """The first of that name, in small letters; empty where there is none."""
    return next((value for key, value in headers if key.lower() == name), b"")


def _reason_of(error: Exception) -> str:
    return str(error) or type(error).__name__
