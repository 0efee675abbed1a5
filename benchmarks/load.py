"""A load generator small enough to share two cores with what it measures: raw HTTP/1.1 on kept connections."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import uvloop


@dataclass(frozen=True)
class Load:
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    failed: int
    first_failure: str = ""


class _Connection(asyncio.Protocol):
    """Sends the same request again as soon as the last answer is complete."""

    def __init__(self, request: bytes, until: float, done: asyncio.Future[None]) -> None:
        self._request = request
        self._until = until
        self._done = done
        self._buffer = b""
        self._need = -1
        self.seconds: list[float] = []
        self.failed = 0
        self.first_failure = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._need < 0:
            head, found, _ = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            length = next(
                int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
            )
            self._need = len(head) + 4 + length
        if len(self._buffer) < self._need:
            return
        if not self._buffer.startswith(b"HTTP/1.1 200"):
            self.failed += 1
            self.first_failure = self.first_failure or self._buffer[:300].decode(errors="replace")
        now = time.perf_counter()
        self.seconds.append(now - self._sent)
        self._buffer, self._need = b"", -1
        if now < self._until:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(None)


async def _drive(url: str, body: bytes | None, connections: int, seconds: float) -> Load:
    parts = urlsplit(url)
    head = f"{'POST' if body else 'GET'} {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\n"
    if body:
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
    request = head.encode() + b"\r\n" + (body or b"")
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    protocols, waits = [], []
    for _ in range(connections):
        done = loop.create_future()
        _, protocol = await loop.create_connection(
            lambda done=done: _Connection(request, started + seconds, done), parts.hostname, parts.port
        )
        protocols.append(protocol)
        waits.append(done)
    await asyncio.wait_for(asyncio.gather(*waits), seconds + 60)
    took = time.perf_counter() - started
    every = sorted(second for protocol in protocols for second in protocol.seconds)
    return Load(
        len(every) / took,
        every[len(every) // 2] * 1000,
        every[min(len(every) - 1, int(len(every) * 0.99))] * 1000,
        sum(protocol.failed for protocol in protocols),
        next((protocol.first_failure for protocol in protocols if protocol.first_failure), ""),
    )


def drive(url: str, body: bytes | None, connections: int, seconds: float) -> Load:
    return uvloop.run(_drive(url, body, connections, seconds))
