"""How many pixels of pictures are on their way into an engine at once: other requests wait with theirs as files."""

from __future__ import annotations

import threading
from concurrent.futures import Future


class PixelRoom:
    """Requests enter in the order in which they came; one that is larger than the room has it to itself."""

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._inside: dict[Future[None], int] = {}
        self._waiting: dict[Future[None], int] = {}
        self._lock = threading.Lock()

    def ask(self, pixels: int) -> Future[None]:
        """It is done once there is room for so many. Whoever has asked leaves in the end, also where it was
        cancelled."""
        entry: Future[None] = Future()
        if not pixels:
            entry.set_result(None)
            return entry
        with self._lock:
            self._waiting[entry] = pixels
        self._let_in()
        return entry

    def leave(self, entry: Future[None]) -> None:
        with self._lock:
            self._waiting.pop(entry, None)
            self._inside.pop(entry, None)
        self._let_in()

    def _let_in(self) -> None:
        for entry in self._entering():
            if entry.set_running_or_notify_cancel():
                entry.set_result(None)

    def _entering(self) -> list[Future[None]]:
        entering: list[Future[None]] = []
        with self._lock:
            for entry, pixels in list(self._waiting.items()):
                if self._inside and sum(self._inside.values()) + pixels > self._pixels:
                    break
                self._inside[entry] = self._waiting.pop(entry)
                entering.append(entry)
        return entering
