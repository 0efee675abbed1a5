"""The web server of one ingress replica: its sockets, its patience with slow clients, and its end.

Each replica of a machine listens on the same port; the kernel shares the connections out, and forgets a replica at
once when its process ends.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cluster import errors
from cluster.settings import Settings

#: How long a client may take for the head of a request, and what it may send without coming to the head's end.
HEAD_S = 30.0
HEAD_BYTES = 65_536
#: How long it may be silent within a body.
BODY_PAUSE_S = 60.0
#: How long a connection without a request is kept. Above a minute, after which most balancers drop theirs: of two
#: ends with the same limit the one that is still sending loses.
KEEP_ALIVE_S = 65
#: Connections that the kernel holds while the loop is busy.
BACKLOG = 2048
#: uvicorn ticks every tenth of a second.
TICKS_BETWEEN_LOOKS = 50


class Connection(HttpToolsProtocol):
    """uvicorn's, which by itself waits for ever for the end of a head or of a body, and for any size of a head."""

    _head_since: float | None = None
    _head_bytes = 0
    _is_in_body = False
    _heard = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_since = self.loop.time()

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        # What comes behind a request that is being answered is the next one's, and waits for its turn.
        is_idle = self.cycle is None or self.cycle.response_complete
        if self._head_since is None and is_idle and not self._is_in_body:
            self._head_since = self._heard
        super().data_received(data)
        if self._head_since is not None and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.send_400_response("The head of the request is too large.")

    def on_headers_complete(self) -> None:
        self._head_since = None
        self._head_bytes = 0
        self._is_in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._is_in_body = False
        super().on_message_complete()

    def is_late(self, now: float) -> bool:
        if self._head_since is not None:
            return now - self._head_since > HEAD_S
        # A body that the app is not reading is not the client's delay.
        return self._is_in_body and not self.flow.read_paused and now - self._heard > BODY_PAUSE_S


class Server(uvicorn.Server):
    def __init__(self, app: FastAPI, settings: Settings) -> None:
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
        self._address = settings.host, settings.port
        self._accepting = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Returns when it accepts connections; raises when the port cannot be had."""
        listeners = listen(*self._address)
        self._task = asyncio.get_running_loop().create_task(self.serve(listeners), name="http")
        accepting = asyncio.ensure_future(self._accepting.wait())
        await asyncio.wait((accepting, self._task), return_when=asyncio.FIRST_COMPLETED)
        accepting.cancel()
        self.check()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The process is Ray's; so are its signals."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._accepting.set()

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_BETWEEN_LOOKS == 0:
            self.close_late(asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    def close_late(self, now: float) -> None:
        for connection in tuple(self.server_state.connections):
            if isinstance(connection, Connection) and connection.is_late(now):
                connection.transport.close()

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


def listen(host: str, port: int) -> list[socket.socket]:
    """A socket for every address that the name stands for."""
    try:
        found: list[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        places = dict.fromkeys((family, address) for family, _, _, _, address in found)
        return [
            socket.create_server(address, family=family, backlog=BACKLOG, reuse_port=True) for family, address in places
        ]
    except OSError as error:
        reason = str(error.strerror or error).partition(" (")[0]
        raise errors.Conflict(f"Port {port} of {host} cannot be served on: {reason}.") from None
