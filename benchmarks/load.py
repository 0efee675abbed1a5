"""A load generator small enough to share two cores with what it measures: raw HTTP/1.1 on kept connections.

Closed loop: each caller sends its next request as soon as the last answer is complete. Open loop: requests come when
they are due, whatever became of the ones before. Its own CPU seconds are part of every result.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import uvloop

#: Seconds that a slow server has for what was under way when the time was up.
PATIENCE_S = 300.0


@dataclass(frozen=True)
class Load:
    """Of the answers with status 200; the others are only counted."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    failed: int
    first_failure: str = ""
    seconds: float = 0.0
    #: Answers of each caller, who takes its requests in turn: which ones were answered follows.
    answered: tuple[int, ...] = ()
    #: Of the load generator, not of the server; the whole run's for each group of callers.
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class Arrivals:
    """What became of requests that did not wait for one another."""

    accepted_ms: list[float]
    refused_ms: list[float]
    failed: int
    first_failure: str
    with_retry_after: int
    seconds: float
    cpu_seconds: float


class _Connection(asyncio.Protocol):
    """Sends what it is told and reports each complete answer: its head, with some of the body when it is not a 200, and
    the seconds that it took."""

    def __init__(self, answered: Callable[[_Connection, bytes, float], None]) -> None:
        self._answered = answered
        self._buffer = bytearray()
        self._need = -1
        self._head = b""
        self._since = 0.0
        self._is_busy = False
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self, request: bytes, since: float) -> None:
        self._since = since
        self._is_busy = True
        self._transport.write(request)

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._need < 0:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self._head = bytes(self._buffer[:end])
            length = next(
                int(line.split(b":")[1])
                for line in self._head.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            )
            self._need = end + 4 + length
        if len(self._buffer) < self._need:
            return
        if not self._head.startswith(b"HTTP/1.1 200"):
            self._head = bytes(self._buffer[:500])
        self._buffer, self._need, self._is_busy = bytearray(), -1, False
        self._answered(self, self._head, time.perf_counter() - self._since)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set_result(None)
        if self._is_busy:
            self._answered(self, b"the connection was closed", time.perf_counter() - self._since)


class _Caller:
    """One closed loop over its own requests."""

    def __init__(self, requests: Sequence[bytes], until: float, most: int) -> None:
        self._requests = requests
        self._until = until
        self._most = most
        self._sent = 0
        self.seconds: list[float] = []
        self.ended = 0.0
        self.failed = 0
        self.first_failure = ""

    def next(self, connection: _Connection) -> None:
        connection.send(self._requests[self._sent % len(self._requests)], time.perf_counter())
        self._sent += 1

    def answered(self, connection: _Connection, head: bytes, seconds: float) -> None:
        if head.startswith(b"HTTP/1.1 200"):
            self.seconds.append(seconds)
        else:
            self.failed += 1
            self.first_failure = self.first_failure or head.decode(errors="replace")
        self.ended = time.perf_counter()
        if self.ended < self._until and self._sent < self._most and not connection.lost.done():
            self.next(connection)
        else:
            connection.close()


def request_bytes(url: str, body: bytes | None) -> bytes:
    parts = urlsplit(url)
    head = f"{'POST' if body else 'GET'} {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\n"
    if body:
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + (body or b"")


async def _drive(
    url: str, groups: Mapping[str, Sequence[Sequence[bytes]]], seconds: float, most: int
) -> dict[str, Load]:
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    cpu, started = time.thread_time(), time.perf_counter()
    callers = {
        name: [_Caller(requests, started + seconds, most) for requests in lists] for name, lists in groups.items()
    }
    opened = []
    for caller in (caller for group in callers.values() for caller in group):
        _, connection = await loop.create_connection(
            lambda caller=caller: _Connection(caller.answered), parts.hostname, parts.port
        )
        caller.next(connection)
        opened.append(connection)
    await asyncio.wait_for(asyncio.gather(*(connection.lost for connection in opened)), seconds + PATIENCE_S)
    spent = time.thread_time() - cpu
    return {name: _load(group, started, spent) for name, group in callers.items()}


def _load(callers: Sequence[_Caller], started: float, cpu_seconds: float) -> Load:
    # Until the last answer of these callers: all their work counts, and all the time that it took.
    took = max(caller.ended for caller in callers) - started
    every = sorted(second for caller in callers for second in caller.seconds)
    return Load(
        len(every) / took,
        percentile(every, 0.50) * 1000,
        percentile(every, 0.99) * 1000,
        sum(caller.failed for caller in callers),
        next((caller.first_failure for caller in callers if caller.first_failure), ""),
        took,
        tuple(len(caller.seconds) for caller in callers),
        cpu_seconds,
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def drive(url: str, body: bytes | None, connections: int, seconds: float) -> Load:
    """The same request again and again."""
    request = request_bytes(url, body)
    return drive_groups(url, {"": [[request]] * connections}, seconds)[""]


def drive_groups(
    url: str, groups: Mapping[str, Sequence[Sequence[bytes]]], seconds: float, most: int = 10**9
) -> dict[str, Load]:
    """Groups of callers at the same time; each caller goes through its own requests, at most `most` of them."""
    return uvloop.run(_drive(url, groups, seconds, most))


class _Volley:
    def __init__(self) -> None:
        self.idle: list[_Connection] = []
        self.under_way = 0
        self.accepted: list[float] = []
        self.refused: list[float] = []
        self.with_retry_after = 0
        self.failed = 0
        self.first_failure = ""

    def answered(self, connection: _Connection, head: bytes, seconds: float) -> None:
        self.under_way -= 1
        if not connection.lost.done():
            self.idle.append(connection)
        if head.startswith(b"HTTP/1.1 200"):
            self.accepted.append(seconds)
        elif head.startswith(b"HTTP/1.1 429"):
            self.refused.append(seconds)
            self.with_retry_after += b"\r\nretry-after:" in head.lower()
        else:
            self.failed += 1
            self.first_failure = self.first_failure or head.decode(errors="replace")


async def _arrive(url: str, requests: Sequence[bytes], per_s: float, seconds: float) -> Arrivals:
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    volley = _Volley()
    cpu, started = time.thread_time(), time.perf_counter()
    for number in range(int(per_s * seconds)):
        due = started + number / per_s
        wait = due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        while volley.idle and volley.idle[-1].lost.done():
            volley.idle.pop()
        if not volley.idle:
            _, opened = await loop.create_connection(lambda: _Connection(volley.answered), parts.hostname, parts.port)
            volley.idle.append(opened)
        connection = volley.idle.pop()
        volley.under_way += 1
        # From when it was due: what a slow server delays here counts too.
        connection.send(requests[number % len(requests)], due)
    deadline = time.perf_counter() + PATIENCE_S
    while volley.under_way and time.perf_counter() < deadline:
        await asyncio.sleep(0.05)
    took, spent = time.perf_counter() - started, time.thread_time() - cpu
    for connection in volley.idle:
        connection.close()
    return Arrivals(
        sorted(second * 1000 for second in volley.accepted),
        sorted(second * 1000 for second in volley.refused),
        volley.failed + volley.under_way,
        volley.first_failure or ("no answer" if volley.under_way else ""),
        volley.with_retry_after,
        took,
        spent,
    )


def arrive(url: str, requests: Sequence[bytes], per_s: float, seconds: float) -> Arrivals:
    """An open loop: `per_s` requests each second, whatever became of the ones before."""
    return uvloop.run(_arrive(url, requests, per_s, seconds))
