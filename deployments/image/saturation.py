"""How long passes of so many samples take, and from that how many are worth putting into one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable
from statistics import median_low

#: Another sample must make all of them this much cheaper, or the pass only keeps everybody waiting for longer.
WORTH = 0.95
#: Passes of a size that count, the one in their middle: some were disturbed, and a fastest of many would always beat
#: a fastest of few.
LAST = 16
#: Unknown sizes are tried up to twice the largest known one.
GROWTH = 2
#: Every so many passes a size beyond the best is tried again: what was measured once may have been disturbed.
DOUBT_EVERY = 8


class Saturation:
    """Measured passes by their shape. Thread-safe."""

    def __init__(self, most: int = 16) -> None:
        self._most = most
        self._seconds: dict[Hashable, dict[int, float]] = {}
        self._last: dict[tuple[Hashable, int], deque[float]] = {}
        self._begun: set[tuple[Hashable, int]] = set()
        self._bounds: dict[Hashable, int] = {}
        self._asked: dict[Hashable, int] = {}
        self._lock = threading.Lock()

    def observe(self, shape: Hashable, samples: int, seconds: float) -> None:
        with self._lock:
            if (shape, samples) not in self._begun:
                # The first pass of a size also pays for what is prepared once.
                self._begun.add((shape, samples))
                return
            last = self._last.setdefault((shape, samples), deque(maxlen=LAST))
            last.append(seconds)
            self._seconds.setdefault(shape, {})[samples] = median_low(last)

    def refuse(self, shape: Hashable, samples: int) -> None:
        """A pass of so many did not fit into memory."""
        with self._lock:
            self._bounds[shape] = max(1, samples // 2)

    def seconds(self, shape: Hashable, samples: int) -> float:
        """What a pass takes, zero when none of the shape has been seen."""
        seconds = self._seconds.get(shape, {})
        return seconds.get(samples) or min(seconds.values(), default=0.0)

    def cap(self, shape: Hashable) -> int:
        """Samples up to which each further one makes all cheaper; beyond what is known, a little more is tried."""
        with self._lock:
            seconds = dict(self._seconds.get(shape, {}))
            bound = self._bounds.get(shape, self._most)
        best, cheapest = 1, float("inf")
        for samples in sorted(seconds):
            each = seconds[samples] / samples
            if each < WORTH * cheapest:
                best, cheapest = samples, each
        if not seconds or best == max(seconds) or self._doubts(shape):
            best = GROWTH * best
        return max(1, min(best, bound, self._most))

    def _doubts(self, shape: Hashable) -> bool:
        self._asked[shape] = times = self._asked.get(shape, 0) + 1
        return times % DOUBT_EVERY == 0

    def table(self) -> list[dict[int, float]]:
        with self._lock:
            return [dict(sorted(seconds.items())) for seconds in self._seconds.values()]
