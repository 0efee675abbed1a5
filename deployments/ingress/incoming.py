"""The bodies that one ingress is being sent: how large each may be, what all of them hold together, and which of them
goes when there is no room."""

from __future__ import annotations

import asyncio
import ctypes
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress

from starlette.types import Message, Receive

from cluster import errors
from deployments.ingress.bodies import SMALL

#: Of routes that take neither texts nor files, and of those that said nothing.
CONTROL_BYTES = 1_000_000
#: Bodies under way at once. Half-sent ones are closed for more, so that they keep out nobody.
MOST_UNFINISHED = 1000
#: A younger body has had no time to be slow.
GRACE_S = 0.25
#: A client that leaves is noticed from this age of its request on.
YOUNG_S = 0.05
RETRY_S = 1.0
#: After so many bytes of bodies their memory is given back to the system, which the allocator would keep for later. The
#: loop cannot allocate meanwhile, for 20 ms in 100 MB.
GIVEN_BACK_BYTES = 20_000_000
GIVE_BACK_AFTER_S = 1.0


class BodyLimits:
    """How large a body may be, by the path of its route."""

    def __init__(self) -> None:
        self._most: dict[str, int] = {}

    def set(self, path: str, most: int) -> None:
        self._most[path] = most

    def of(self, path: str) -> int:
        return self._most.get(path, CONTROL_BYTES)


class Bodies:
    """All of one ingress."""

    def __init__(self, most_bytes: int, most_unfinished: int = MOST_UNFINISHED) -> None:
        self._most_bytes = most_bytes
        self._most_unfinished = most_unfinished
        self._ended_bytes = 0
        self.bytes = 0
        self.unfinished: set[IncomingBody] = set()

    def begin(self, body: IncomingBody, announced: int) -> None:
        """Refuses what certainly has no room; what others still send may make way for it."""
        if announced > SMALL and self.bytes + announced > self._most_bytes:
            held = self.bytes - sum(other.size for other in self.unfinished)
            if held + announced > self._most_bytes:
                raise self._no_room()
        if len(self.unfinished) >= self._most_unfinished:
            victim = slowest(self.unfinished, Counter(other.address for other in self.unfinished))
            if victim is not None:
                self._close(victim, "too many others had begun")
            elif len(self.unfinished) >= 2 * self._most_unfinished:
                raise errors.Unavailable(
                    f"This ingress is being sent {len(self.unfinished)} bodies already.", retry_after_s=RETRY_S
                )
        self.unfinished.add(body)

    def grew(self, body: IncomingBody, by: int) -> None:
        self.bytes += by
        while self.bytes > self._most_bytes and body.size > SMALL:
            held: Counter[str] = Counter()
            for other in self.unfinished:
                held[other.address] += other.size
            victim = slowest([other for other in self.unfinished if other.size > SMALL], held)
            if victim is None or victim is body:
                raise self._no_room()
            self._close(victim, "there was no room left for others")

    def is_whole(self, body: IncomingBody) -> None:
        self.unfinished.discard(body)

    def end(self, body: IncomingBody) -> None:
        self.unfinished.discard(body)
        self.bytes -= body.size
        self._ended_bytes += body.size
        if self._ended_bytes > GIVEN_BACK_BYTES:
            self._ended_bytes = 0
            loop = asyncio.get_running_loop()
            # By then nobody holds them any more.
            loop.call_later(GIVE_BACK_AFTER_S, loop.run_in_executor, None, _give_back)

    def _close(self, victim: IncomingBody, why: str) -> None:
        self.end(victim)
        victim.size = 0
        victim.close(errors.Unavailable(f"The body came too slowly while {why}; send it again.", retry_after_s=RETRY_S))

    def _no_room(self) -> errors.Unavailable:
        return errors.Unavailable(
            f"This ingress holds bodies of {self.bytes} bytes already; {self._most_bytes} are allowed.",
            retry_after_s=RETRY_S,
        )


def _give_back() -> None:
    # Only glibc has it, and only there is there anything to give.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def slowest(bodies: Collection[IncomingBody], weights: Mapping[str, int]) -> IncomingBody | None:
    """Of the address that weighs most the one that came the slowest; None where all have only just begun."""
    now = asyncio.get_running_loop().time()
    old = [body for body in bodies if now - body.since >= GRACE_S]
    return max(old, key=lambda body: (weights[body.address], -body.size / (now - body.since)), default=None)


class IncomingBody:
    """What one client sends: a body within the limits, and after it perhaps that he has left.

    Nobody listens for that while a request is young: it would cost every request a task, and few take so long.
    """

    def __init__(
        self, receive: Receive, most: int, headers: Mapping[bytes, bytes], bodies: Bodies, address: str
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.address = address
        self.has_left = False
        #: Why it was closed before it was whole.
        self.refusal: errors.ClusterError | None = None
        #: Bytes that have come.
        self.size = 0
        self._receive = receive
        self._most = most
        self._bodies = bodies
        self._watch: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._has_none = b"content-length" not in headers and b"transfer-encoding" not in headers
        if self._has_none:
            self._expect_leaving()
            return
        self.since = task.get_loop().time()
        self._length = headers.get(b"content-length", b"0")

    def begin(self) -> None:
        """Refuses by what is announced; a body need not say its length."""
        if self._has_none:
            return
        announced = int(self._length) if self._length.isdigit() else 0
        self._refuse_large(announced)
        self._bodies.begin(self, announced)

    async def receive(self) -> Message:
        """A body is also counted while it comes."""
        if self._has_none:
            # The watch may have taken the message that says so.
            self._has_none = False
            return {"type": "http.request", "body": b"", "more_body": False}
        message = await self._receive()
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self.size += size
            self._bodies.grew(self, size)
            self._refuse_large(self.size)
            if not message.get("more_body"):
                self._bodies.is_whole(self)
                self._expect_leaving()
        return message

    def close(self, refusal: errors.ClusterError) -> None:
        self.refusal = refusal
        self.task.cancel()

    def _refuse_large(self, size: int) -> None:
        if size > self._most:
            raise errors.TooLarge(f"The body has {size} bytes or more, {self._most} are allowed.")

    def _expect_leaving(self) -> None:
        if self._timer is None:
            self._timer = self.task.get_loop().call_later(YOUNG_S, self._begin_watching)

    def _begin_watching(self) -> None:
        self._watch = self.task.get_loop().create_task(self._until_it_leaves())

    async def _until_it_leaves(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.has_left = True
        self.task.cancel()

    def end(self) -> None:
        self._bodies.end(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
