"""The web server: its patience with slow clients, and its end; and that of one ingress replica, with its sockets.

The replicas of a machine accept connections from the same sockets, which are held elsewhere where somebody watches over
the cluster; one that hangs accepts none, and when all of them end, callers wait for the next.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from cluster import errors
from cluster.runtime.handover import BACKLOG, sockets_for
from cluster.runtime.heartbeat import Heart
from cluster.runtime.open_files import raise_limit, warning_of
from cluster.runtime.place import Place
from cluster.runtime.raylet import Raylet
from cluster.settings import Settings

log = logging.getLogger("cluster.ingress")

#: How long a client may take for the head of a request, and what it may send without coming to the head's end.
HEAD_S = 30.0
HEAD_BYTES = 65_536
#: How long it may be silent within a body, or leave an answer unread; and what it must send all the same.
BODY_PAUSE_S = 60.0
BODY_BYTES_PER_S = 1000
#: How long a connection without a request is kept. Above a minute, after which most balancers drop theirs: of two
#: ends with the same limit the one that is still sending loses.
KEEP_ALIVE_S = 65
#: Open files that are not for clients: sockets of workers, documents, what Ray opens.
NOT_FOR_CLIENTS = 1024
#: How many idle connections are closed together when there are too many: finding them takes a while.
CLOSED_AT_ONCE = 20
#: How long an ingress that ends waits for the next request on each connection, to say with its answer that the
#: connection ends too. One that is closed while its caller sends loses him his request.
LAST_REQUEST_S = 1.0
#: uvicorn ticks every tenth of a second.
TICKS_BETWEEN_LOOKS = 50


class Connection(HttpToolsProtocol):
    """uvicorn's with limits: by itself it waits for ever for a head or a body, and takes a head of any size."""

    _head_since: float | None = None
    _head_bytes = 0
    _body_since = 0.0
    _body_bytes = 0
    _is_in_body = False
    heard = 0.0
    #: Unread bytes of an answer, and since when their number has not changed.
    _unread: tuple[int, float] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_since = self.heard = self.loop.time()
        assert isinstance(self.server_state, State)
        for connection in superfluous(self.connections, self.server_state.most_connections):
            connection.transport.close()

    @property
    def address(self) -> str:
        return self.client[0] if self.client else ""

    @property
    def is_idle(self) -> bool:
        """No request, or only the beginning of one's head."""
        has_none = self.cycle is None or self.cycle.response_complete
        return has_none and not self._is_in_body and not self.transport.is_closing()

    def data_received(self, data: bytes) -> None:
        self.heard = self.loop.time()
        # Bytes that come while a request is being answered belong to the next one, and wait.
        has_none = self.cycle is None or self.cycle.response_complete
        if self._is_in_body:
            self._body_bytes += len(data)
        elif self._head_since is None and has_none:
            self._head_since = self.heard
        super().data_received(data)
        if self._head_since is not None and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.send_400_response("The head of the request is too large.")

    def on_headers_complete(self) -> None:
        self._head_since = None
        self._head_bytes = 0
        self._is_in_body = True
        self._body_since, self._body_bytes = self.heard, 0
        super().on_headers_complete()
        assert isinstance(self.server_state, State)
        if self.server_state.is_ending:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._is_in_body = False
        super().on_message_complete()

    def end_with_its_answer(self) -> None:
        """Where the head of an answer has promised that the connection stays, it stays for one more request."""
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def is_late(self, now: float) -> bool:
        if self._head_since is not None:
            return now - self._head_since > HEAD_S
        # A body that the app is not reading is not the client's delay.
        if not self._is_in_body or self.flow.read_paused:
            return False
        expected_by = self._body_since + BODY_PAUSE_S + self._body_bytes / BODY_BYTES_PER_S
        return now > expected_by or now - self.heard > BODY_PAUSE_S

    def is_unread(self, now: float) -> bool:
        """Whether nothing of an answer has been read for too long, as far as these looks at it tell."""
        if not self.flow.write_paused:
            self._unread = None
            return False
        size = self.transport.get_write_buffer_size()
        if self._unread is None or self._unread[0] != size:
            self._unread = size, now
        return now - self._unread[1] > BODY_PAUSE_S


class State(ServerState):
    most_connections = 0
    #: Nothing is accepted any more, and each connection ends with its next answer.
    is_ending = False


def superfluous(connections: Collection[Any], most: int) -> list[Any]:
    """The connections to close when there are too many: idle ones, first those of the address with the most, then those
    that were silent the longest."""
    if len(connections) <= most:
        return []
    counts = Counter(connection.address for connection in connections)
    idle = [connection for connection in connections if connection.is_idle]
    idle.sort(key=lambda connection: (-counts[connection.address], connection.heard))
    return idle[: max(1, most // CLOSED_AT_ONCE)]


class PatientServer(uvicorn.Server):
    """uvicorn with limits for what a client may keep it waiting for, and an end that costs no caller his request."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, round(settings.drain_s)),
            )
        )
        open_files = raise_limit()
        if (warning := warning_of(open_files)) is not None:
            log.warning(warning)
        self.server_state: State = State()
        self.server_state.most_connections = max(open_files - NOT_FOR_CLIENTS, open_files // 2)

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_BETWEEN_LOOKS == 0:
            self.close_late(asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.server_state.is_ending = True
        for server in self.servers:
            server.close()
        connections = self.server_state.connections
        for connection in tuple(connections):
            if isinstance(connection, Connection):
                connection.end_with_its_answer()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LAST_REQUEST_S
        while connections and loop.time() < deadline:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    def close_late(self, now: float) -> None:
        for connection in tuple(self.server_state.connections):
            if not isinstance(connection, Connection):
                continue
            if connection.is_unread(now):
                # Closing would wait until the client has read the rest.
                connection.transport.abort()
            elif connection.is_late(now):
                connection.transport.close()


class Server(PatientServer):
    """Of one ingress replica, whose process Ray owns and a watchdog watches."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(app, settings)
        self._app = app
        #: For streams that have no end of their own.
        app.state.is_ending = asyncio.Event()
        self._address = settings.host, settings.port
        self._place = Place(settings)
        self._heart = Heart(self._place.beats, "ingress")
        self._raylet = Raylet()
        self._accepting = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Returns when it accepts connections; raises when the port cannot be had."""
        listeners = sockets_for(*self._address, self._place.listeners)
        self._task = asyncio.get_running_loop().create_task(self._serve_and_stop_the_heart(listeners), name="http")
        accepting = asyncio.ensure_future(self._accepting.wait())
        await asyncio.wait((accepting, self._task), return_when=asyncio.FIRST_COMPLETED)
        accepting.cancel()
        self.check()

    async def _serve_and_stop_the_heart(self, listeners: list[socket.socket]) -> None:
        try:
            await self.serve(listeners)
        finally:
            self._heart.stop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Streams that nothing else ends would hold it up for as long as draining may take.
        self._app.state.is_ending.set()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ray owns the process, and handles its signals."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._accepting.set()

    async def on_tick(self, counter: int) -> bool:
        self._heart.beat()
        if self._raylet.has_ended():
            # Everything is about to be started again. The watchdog waits a moment for the answers to the requests that
            # were accepted here; new connections wait in its sockets for the next ingress.
            log.warning("Ray's node process has ended; answering what was accepted, and nothing more")
            return True
        return await super().on_tick(counter)

    def check(self) -> None:
        """Raises unless it still accepts connections."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()
        if not self.started or self.should_exit or not all(server.is_serving() for server in self.servers):
            raise errors.Unavailable(f"The web server of {self._address[0]}:{self._address[1]} accepts nothing.")

    async def end(self) -> None:
        """Accepts nothing more, and lets running requests finish for as long as draining may take."""
        self.should_exit = True
        if self._task is not None:
            await asyncio.wait((self._task,))
