"""Notices when a worker has nothing to do, and when it is used again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

#: Pauses shorter than this are part of its use: nobody is told of every request.
QUIET_S = 1.0


class Idleness:
    """Used from the loop that serves requests. Idle until the first of them."""

    def __init__(self, tell: Callable[[bool, int], None]) -> None:
        """`tell` takes whether it is idle, and how many spells of use there have been."""
        self._tell = tell
        self._is_idle = True
        self._spells = 0
        self._working = 0
        self._used_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """It is given something to do. Not a context manager: that cost a fifteenth of the requests in a second."""
        self._working += 1
        if self._is_idle:
            self._is_idle = False
            self._spells += 1
            self._tell(False, self._spells)

    def end(self) -> None:
        self._working -= 1
        self._used_at = time.monotonic()
        if not self._working and self._timer is None:
            self._look_in(QUIET_S)

    def _look_in(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        quiet_for = time.monotonic() - self._used_at
        if self._working:
            return
        if quiet_for < QUIET_S:
            self._look_in(QUIET_S - quiet_for)
            return
        self._is_idle = True
        self._tell(True, self._spells)
