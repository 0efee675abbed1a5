"""Calls over a Unix socket between an ingress and a worker of the same machine, at a tenth of what Ray's calls take.

Knows nothing of Ray. A call is a frame: its size, its number and a pickle. Its answer is a frame with the same number.
Answers that come in pieces share frames: what all of them have to say in a turn of the loop is one frame of number 0.
An empty frame ends the call of its number. Only processes of the same user can connect, which is what makes unpickling
safe. No heartbeat is needed: the kernel closes the connection of a process that ends, however it ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import pickle
import socket
import struct
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cluster import errors
from cluster.calls import Answer
from cluster.paths import make_private
from cluster.runtime.inbox import Inbox, LastPiece

log = logging.getLogger("cluster.runtime.local_rpc")

Outcomes = list[Answer | errors.ClusterError | None]
#: Answers the call of a name with its arguments.
Respond = Callable[[str, Sequence[Any]], Awaitable[object]]
#: Answers such a call in pieces, which it gives to the function as they come; what it returns comes last.
Speak = Callable[[str, Sequence[Any], Callable[[object], None]], Awaitable[object]]

#: Size of the pickle that follows, and number of the call.
HEAD = struct.Struct("<QQ")
#: Process, user and group at the other end of a socket, as the kernel tells them.
CREDENTIALS = struct.Struct("3i")
#: Largest frame. A body has 100 MB at most, and few calls of that size are gathered into one.
FRAME_BYTES = 2**30
#: Read at once; a larger frame gets a buffer of its own.
BUFFER_BYTES = 2**17
#: The system takes 107 bytes as the path of a socket.
PATH_BYTES = 100
#: A socket younger than this is left alone.
STARTING_S = 60.0
#: The number of frames that hold pieces of several answers.
PIECES = 0
#: So many pieces of all answers may wait to be sent; an ingress that is further behind loses its connection.
MOST_UNSENT = 100_000


# ------------------------------------------------------------------------------------------------ places


def own_path(home: Path) -> Path:
    """Where this process may listen. Also removes the sockets of processes that have ended."""
    # Several machines may share the home folder, and none can tell whether another's socket is alive.
    machine = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    path = home / "run" / "workers" / f"{machine}-{os.getpid()}.sock"
    if len(os.fsencode(path)) >= PATH_BYTES:
        name = hashlib.sha256(os.fsencode(home)).hexdigest()[:10]
        path = Path(tempfile.gettempdir()) / f"cluster-workers-{os.getuid()}-{name}" / path.name
    if not make_private(path.parent):
        raise PermissionError(f"{path.parent} is not a folder of this user.")
    for other in path.parent.glob(f"{machine}-*.sock"):
        if _is_abandoned(other):
            other.unlink(missing_ok=True)
    return path


def _is_abandoned(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            # A new socket refuses connections until it listens, as if its process were gone.
            if time.time() - path.lstat().st_mtime > STARTING_S:
                probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except OSError:
            return False
        return False


def _is_own(transport: asyncio.BaseTransport) -> bool:
    """Whether the other end is a process of this user. Where the system cannot say, the folder protects us."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    its_socket: socket.socket = transport.get_extra_info("socket")
    credentials = its_socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    _, user, _ = CREDENTIALS.unpack(credentials)
    return bool(user == os.getuid())


# ------------------------------------------------------------------------------------------------ frames


class _FrameProtocol(asyncio.BufferedProtocol):
    """Cuts the received bytes into frames. A large frame is read straight into a buffer of its size."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._buffer = bytearray(BUFFER_BYTES)
        self._filled = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        if not _is_own(transport):
            log.error("a process of another user was refused")
            transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)[self._filled :]

    def buffer_updated(self, count: int) -> None:
        self._filled += count
        start, received = 0, memoryview(self._buffer)[: self._filled]
        need = HEAD.size
        while self._filled - start >= HEAD.size:
            size, number = HEAD.unpack_from(received, start)
            if size > self._most:
                log.error("a frame of %d bytes was refused, %d are allowed", size, self._most)
                self._abort()
                return
            need = HEAD.size + size
            if self._filled - start < need:
                break
            self.frame(number, received[start + HEAD.size : start + need])
            start += need
            need = HEAD.size
        incomplete = received[start:]
        # A new buffer if the next frame does not fit, or to give back that of a large frame.
        if start or need > len(self._buffer):
            if need > len(self._buffer) or len(self._buffer) > BUFFER_BYTES:
                self._buffer = bytearray(max(need, BUFFER_BYTES))
            self._buffer[: len(incomplete)] = incomplete
            self._filled = len(incomplete)

    def frame(self, number: int, payload: memoryview) -> None:
        raise NotImplementedError

    def send(self, number: int, payload: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        head = HEAD.pack(len(payload), number)
        if len(payload) < BUFFER_BYTES:
            self._transport.write(head + payload)
        else:
            self._transport.writelines((head, payload))

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _pickled(value: object, most: int) -> bytes:
    payload = pickle.dumps(value, protocol=5)
    if len(payload) > most:
        raise ValueError(f"it has {len(payload)} bytes, {most} are allowed")
    return payload


# ---------------------------------------------------------------------------------------- the worker's end


class Listener:
    """Answers calls on the event loop on which it was started."""

    def __init__(self, respond: Respond, speak: Speak | None = None, most: int = FRAME_BYTES) -> None:
        """`speak` answers the calls of `WorkerConnection.pieces`."""
        self._respond = respond
        self._speak = speak
        self._most = most
        self._server: asyncio.Server | None = None
        self._connections: set[_IngressConnection] = set()

    async def start(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._connected, str(path))

    def _connected(self) -> _IngressConnection:
        return _IngressConnection(self._respond, self._speak, self._most, self._connections)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            connection._abort()


class _IngressConnection(_FrameProtocol):
    """One ingress, as a worker sees it."""

    def __init__(self, respond: Respond, speak: Speak | None, most: int, connections: set[_IngressConnection]) -> None:
        super().__init__(most)
        self._respond = respond
        self._speak = speak
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        #: Those that are answered in pieces, by their numbers.
        self._speaking: dict[int, asyncio.Task[None]] = {}
        self._unsent: list[tuple[int, object]] = []
        self._is_full = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        # An ingress that was killed must not keep a model busy: nobody is left to hear the answers.
        self._connections.discard(self)
        for task in self._tasks:
            task.cancel()

    def frame(self, number: int, payload: memoryview) -> None:
        if not payload:
            if number in self._speaking:
                self._speaking[number].cancel()
            return
        try:
            name, arguments, *in_pieces = pickle.loads(payload)
        # Unpickling may raise anything; only this call is to blame.
        except Exception as error:
            self._answer(number, errors.InferenceFailed(f"The call cannot be read: {error}"))
            return
        serve = self._serve_in_pieces if in_pieces else self._serve
        task = self._loop.create_task(serve(number, name, arguments))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if in_pieces:
            self._speaking[number] = task
            task.add_done_callback(lambda _: self._speaking.pop(number, None))

    async def _serve_in_pieces(self, number: int, name: str, arguments: Sequence[Any]) -> None:
        def send(piece: object) -> None:
            self._send_piece(number, piece)

        try:
            if self._speak is None:
                raise errors.BadRequest(f"Nothing is answered in pieces here, {name!r} neither.")
            outcome = await self._speak(name, arguments, send)
        # Without an end the caller would wait until its time is up.
        except Exception as error:
            outcome = errors.as_ours(error)
        self._send_piece(number, LastPiece(outcome))

    def _send_piece(self, number: int, piece: object) -> None:
        self._unsent.append((number, piece))
        if self._is_full:
            if len(self._unsent) > MOST_UNSENT:
                log.error("an ingress reads nothing, %d pieces wait for it: its connection is closed", MOST_UNSENT)
                self._abort()
        elif len(self._unsent) == 1:
            self._loop.call_soon(self._send_pieces)

    def _send_pieces(self) -> None:
        pieces, self._unsent = self._unsent, []
        if not pieces:
            return
        try:
            payload = _pickled(pieces, self._most)
        # A piece may be of any type; the other answers go on.
        except Exception as error:
            payload = _pickled([_sendable_piece(*piece, error) for piece in pieces], self._most)
        self.send(PIECES, payload)

    async def _serve(self, number: int, name: str, arguments: Sequence[Any]) -> None:
        try:
            answer = await self._respond(name, arguments)
        # Without an answer the caller would wait until its time is up.
        except Exception as error:
            answer = errors.as_ours(error)
        self._answer(number, answer)

    def _answer(self, number: int, answer: object) -> None:
        try:
            payload = _pickled(answer, self._most)
        # A family's outputs may be of any type and size; the other requests of the call are still answered.
        except Exception as error:
            payload = _pickled(_sendable(answer, error, self._most), self._most)
        self.send(number, payload)

    def pause_writing(self) -> None:
        """No calls are read from an ingress that does not read its answers, and no pieces are sent to it."""
        self._is_full = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._is_full = False
        if self._transport is not None:
            self._transport.resume_reading()
        self._send_pieces()


def _sendable_piece(number: int, piece: object, why: Exception) -> tuple[int, object]:
    """The same, or the end of that answer if the piece is what cannot be sent."""
    try:
        pickle.dumps(piece, protocol=5)
    # As above.
    except Exception:
        return number, LastPiece(errors.InferenceFailed(f"The answer cannot be sent: {why}"))
    return number, piece


def _sendable(answer: object, why: Exception, most: int) -> object:
    """The same with an error in place of each outcome that cannot be sent."""
    if not isinstance(answer, tuple):
        return errors.InferenceFailed(f"The answer cannot be sent: {why}")
    outcomes, working = answer
    left = most // 2
    sent: Outcomes = []
    for outcome in outcomes:
        try:
            left -= len(_pickled(outcome, left))
            sent.append(outcome)
        # As above: an output may be of any kind.
        except Exception as error:
            sent.append(errors.InferenceFailed(f"The answer cannot be sent: {error}"))
    return sent, working


# --------------------------------------------------------------------------------------- the ingress's end


async def connect(path: str, most: int = FRAME_BYTES) -> WorkerConnection:
    """Raises OSError when nobody listens there."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_unix_connection(lambda: WorkerConnection(most), path)
    return connection


class WorkerConnection(_FrameProtocol):
    """One worker, as an ingress sees it. Raises our own errors, for a call that cannot be pickled what pickle did."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self._loop = asyncio.get_running_loop()
        self._calls = 0
        self._open: dict[int, asyncio.Future[Any]] = {}
        self._hearing: dict[int, Inbox] = {}
        self._is_retired = False

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def call(self, name: str, arguments: Sequence[Any], timeout_s: float) -> Any:
        """What the worker answers to the call of that name."""
        payload, number = _pickled((name, tuple(arguments)), self._most), self._next()
        answer = self._open[number] = self._loop.create_future()
        timer = self._loop.call_later(timeout_s, _give_up, answer)
        self.send(number, payload)
        try:
            return await answer
        finally:
            timer.cancel()
            self._open.pop(number, None)
            if self._is_retired:
                self.retire()

    async def pieces(self, name: str, arguments: Sequence[Any], timeout_s: float) -> AsyncGenerator[list[object]]:
        """The pieces of the answer, as many at a time as there are, and at last what the worker returned. Whoever
        closes the generator before that ends the work on the answer."""
        payload, number = _pickled((name, tuple(arguments), True), self._most), self._next()
        inbox = self._hearing[number] = Inbox(partial(self.send, number, b""))
        timer = self._loop.call_later(timeout_s, inbox.fail, _silent())
        self.send(number, payload)
        try:
            while not inbox.is_over:
                yield await inbox.taken()
        finally:
            timer.cancel()
            self._hearing.pop(number, None)
            if not inbox.has_ended:
                self.send(number, b"")
            if self._is_retired:
                self.retire()

    def _next(self) -> int:
        """The number of a new call."""
        if not self.is_open:
            raise _gone()
        self._calls += 1
        return self._calls

    def frame(self, number: int, payload: memoryview) -> None:
        if number == PIECES:
            self._hear(payload)
            return
        answer = self._open.get(number)
        if answer is None or answer.done():
            return  # nobody waits any more
        try:
            value = pickle.loads(payload)
        # A worker of another version may answer with what this one does not have.
        except Exception as error:
            value = errors.InferenceFailed(f"The answer cannot be read: {error}")
        if isinstance(value, errors.ClusterError):
            answer.set_exception(value)
        else:
            answer.set_result(value)

    def _hear(self, payload: memoryview) -> None:
        try:
            pieces = pickle.loads(payload)
        # A worker of another version may answer with what this one does not have.
        except Exception as error:
            for inbox in self._hearing.values():
                inbox.fail(errors.InferenceFailed(f"The answer cannot be read: {error}"))
            return
        for number, piece in pieces:
            # Nobody waits any more for those that are not there.
            if (listening := self._hearing.get(number)) is not None:
                listening.put(piece)

    def connection_lost(self, error: Exception | None) -> None:
        for answer in self._open.values():
            if not answer.done():
                answer.set_exception(_gone())
        for inbox in self._hearing.values():
            inbox.fail(_gone())

    def retire(self) -> None:
        """Closes it once nothing is open any more."""
        self._is_retired = True
        if not self._open and not self._hearing and self._transport is not None:
            self._transport.close()


def _gone() -> errors.WorkerLost:
    return errors.WorkerLost("The process is gone: its end of the socket was closed.", retry_after_s=5.0)


def _silent() -> errors.Unavailable:
    return errors.Unavailable("It does not answer.", retry_after_s=5.0)


def _give_up(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(_silent())
