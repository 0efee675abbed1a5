"""How long the loop of an ingress was blocked and answered nobody: measured by how late a timer fires."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

log = logging.getLogger("cluster.ingress")

EVERY_S = 0.05
#: Stalls from this length on are logged.
LONG_S = 0.25


class LagWatch:
    """Measures the running loop until it ends; `tell` is called with the seconds by which each timer was late."""

    def __init__(self, tell: Callable[[float], None]) -> None:
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._expect()

    def _expect(self) -> None:
        self._due = self._loop.time() + EVERY_S
        self._computed = time.thread_time()
        self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        late = max(0.0, self._loop.time() - self._due)
        self._tell(late)
        if late > LONG_S:
            # The rest of the time this thread waited for a core, or for another thread of its process.
            log.warning(
                "nobody was answered for %.2f s, in which the loop computed for %.2f s",
                late,
                time.thread_time() - self._computed,
            )
        self._expect()
