"""How many pixels of pages are unpacked at once: the others wait as files."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.worker.family import Progress

#: How often a page that waits checks whether anybody still wants it.
CHECK_EVERY_S = 0.05
#: Of a usual page, A4 at 300 dots per inch.
USUAL_PIXELS = 9_000_000


class PageRoom:
    """Pages enter in the order in which they came. The largest page that is allowed has the room to itself."""

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._taken = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, pixels: int, progress: Progress) -> Iterator[None]:
        """Raises as soon as nobody wants the page any more."""
        self._enter(pixels, progress)
        try:
            yield
        finally:
            with self._changed:
                self._taken -= pixels
                self._changed.notify_all()

    def _enter(self, pixels: int, progress: Progress) -> None:
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            try:
                while self._waiting[0] is not turn or not self._fits(pixels):
                    self._changed.wait(CHECK_EVERY_S)
                    progress.check()
                self._taken += pixels
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()

    def _fits(self, pixels: int) -> bool:
        return not self._taken or self._taken + pixels <= self._pixels


def most_unpacked(max_pixels: int, pages: int) -> int:
    """Pixels at once, for a launch that takes pages up to that size and has so many of them under way."""
    return max(max_pixels, pages * min(max_pixels, USUAL_PIXELS))
