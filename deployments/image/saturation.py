"""How many samples are worth putting into one pass, from the measured times of passes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable
from statistics import median_low

#: More samples must bring the time per sample down to this share. Otherwise the pass only takes longer for everybody.
WORTH = 0.95
#: The time of a size is the median of its last passes. The fastest pass was no good measure: sizes that ran more often
#: had better chances of a very fast one.
LAST = 16
#: Sizes that were not measured are tried up to this multiple of the best one.
GROWTH = 2
#: Once in so many passes a size beyond the best is tried again, because its measurement may have been disturbed.
DOUBT_EVERY = 8


class Saturation:
    """Times of passes by their shape and size. Thread-safe."""

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
                # The first pass of a size includes preparations that are made only once.
                self._begun.add((shape, samples))
                return
            last = self._last.setdefault((shape, samples), deque(maxlen=LAST))
            last.append(seconds)
            self._seconds.setdefault(shape, {})[samples] = median_low(last)

    def refuse(self, shape: Hashable, samples: int) -> None:
        """A pass of so many samples did not fit into memory."""
        with self._lock:
            self._bounds[shape] = max(1, samples // 2)

    def seconds(self, shape: Hashable, samples: int) -> float:
        """The time of a pass; zero when none of the shape was measured."""
        seconds = self._seconds.get(shape, {})
        return seconds.get(samples) or min(seconds.values(), default=0.0)

    def cap(self, shape: Hashable) -> int:
        """The number of samples at which each is cheapest. Where nothing larger was measured, more are tried."""
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
