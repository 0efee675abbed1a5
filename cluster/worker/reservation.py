"""Keeps a worker free for one call, so that if its process ends meanwhile, nothing else can be to blame."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from cluster import errors

#: How long a worker is kept free for a call that does not come, and the least pause before it is reserved again.
RESERVED_S = 5.0
PAUSE_S = 0.02


class Reservation:
    """Used from the loop that serves requests."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        #: The call that is tried alone, if there is one.
        self.owner: str | None = None
        self._since = 0.0
        self._free = asyncio.Lock()
        #: The ids of the calls that the worker has in hand, and how many of each.
        self._calls: Counter[str] = Counter()
        #: How many calls it has in hand.
        self.working = 0
        self._idle = asyncio.Event()

    async def take(self, owner: str, wait_s: float) -> None:
        """Waits until the worker has nothing in hand; meanwhile it takes nothing new but calls of that owner."""
        try:
            async with asyncio.timeout(wait_s):
                await self._free.acquire()
                self.owner, self._since = owner, time.perf_counter()
                while self.working:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            self.end(owner)
            raise errors.WorkerReserved(
                f"{self._worker} had no time for one call alone within {wait_s:.0f} s."
            ) from None
        except asyncio.CancelledError:
            self.end(owner)
            raise
        asyncio.get_running_loop().call_later(RESERVED_S, self._end_unused, owner)

    @property
    def calls(self) -> tuple[str, ...]:
        return tuple(self._calls)

    def begin_call(self, id: str) -> None:
        self.working += 1
        self._calls[id] += 1

    def end_call(self, id: str) -> None:
        self.working -= 1
        self._calls[id] -= 1
        if not self._calls[id]:
            del self._calls[id]
        self.end(id)
        if not self.working:
            self._idle.set()

    def end(self, owner: str) -> None:
        if self.owner != owner:
            return
        self.owner = None
        # Other calls get the worker for as long as this one had it.
        pause = max(PAUSE_S, time.perf_counter() - self._since)
        asyncio.get_running_loop().call_later(pause, self._free.release)

    def _end_unused(self, owner: str) -> None:
        if not self.working:
            self.end(owner)
