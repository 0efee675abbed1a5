"""What models did of late, as rows of numbers that are kept for a while: by the second, and coarser for a day. Pure:
time is passed in, as whole seconds since 1970.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from cluster.figures import Happened, one_after_another

#: Requests that ended and those that failed, a second; the time in the worker that half and 99 of 100 of them took, in
#: seconds; what waits; inputs in a batch; tokens a second; main memory that the workers hold, in bytes.
Series = Literal["requests", "errors", "p50", "p99", "waiting", "batch", "tokens", "memory"]
SERIES: tuple[Series, ...] = get_args(Series)
#: Those that have no meaning when they are added up over models.
PER_MODEL: tuple[Series, ...] = ("p50", "p99", "batch")
FINE_S, COARSE_S = 1, 15
FINE_STEPS, COARSE_STEPS = 600, 5760
#: A longer gap stays one: nobody knows when in it what was counted after it has happened.
MOST_FILLED_S = 2 * COARSE_S


class Steps(NamedTuple):
    """`rows[0]` is of the step that begins at `begin`. What is not known is not a number."""

    begin: int
    step_s: int
    rows: Any


class Ring:
    """Its memory is taken page by page as it fills."""

    def __init__(self, step_s: int, steps: int) -> None:
        self.step_s = step_s
        self._rows = np.zeros((steps, len(SERIES)), np.float32)
        #: Numbers of steps: the first that is there, and the one after the last.
        self._begun = self._end = 0

    def put(self, first: int, last: int, row: Sequence[float]) -> None:
        """The same for the steps of these numbers, which come after all that were put before."""
        steps = len(self._rows)
        if not self._end:
            self._begun = self._end = first
        for number in range(max(self._end, first - steps), first):
            self._rows[number % steps] = math.nan
        for number in range(max(first, self._end), last + 1):
            self._rows[number % steps] = row
        self._end = max(self._end, last + 1)
        self._begun = max(self._begun, self._end - steps)

    def since(self, second: int) -> Steps:
        """The steps that begin then or later."""
        first = max(self._begun, -(-second // self.step_s))
        numbers = np.arange(first, max(first, self._end))
        return Steps(first * self.step_s, self.step_s, self._rows[numbers % len(self._rows)])


class Rings:
    """Of one model, or of all together."""

    def __init__(self) -> None:
        self.fine, self.coarse = Ring(FINE_S, FINE_STEPS), Ring(COARSE_S, COARSE_STEPS)
        #: Up to when it is known what happened.
        self._until = 0
        #: What happened in the coarse step that is not over yet, in how many of its seconds.
        self._open: tuple[Happened, int] = Happened(), 0

    def put(self, until: int, happened: Happened) -> None:
        """`happened`: since the last time. Nothing is told for a moment that is told of already."""
        since = self._until or until - 1
        if until <= since:
            return
        seconds = until - since
        # Of a while in which nobody looked, what was counted is known, and not when.
        since = max(since, until - MOST_FILLED_S)
        row = row_of(happened, seconds)
        self.fine.put(since, until - 1, row)
        if since // COARSE_S == (until - 1) // COARSE_S:
            earlier, counted = self._open
            self._open = one_after_another(earlier, happened) if counted else happened, counted + until - since
        else:
            # What happened over the edge of two steps counts as of the earlier, in which most of it did.
            earlier, counted = self._open
            self._close(since // COARSE_S, one_after_another(earlier, happened), counted + seconds)
        if until % COARSE_S == 0 and self._open[1]:
            self._close((until - 1) // COARSE_S, *self._open)
        self._until = until

    def _close(self, number: int, happened: Happened, seconds: int) -> None:
        self.coarse.put(number, number, row_of(happened, seconds))
        self._open = Happened(), 0

    def since(self, second: int, step_s: int) -> Steps:
        return (self.fine if step_s == FINE_S else self.coarse).since(second)


def row_of(happened: Happened, seconds: int) -> tuple[float, ...]:
    """In the order of `SERIES`."""
    p50, p99 = happened.quantile_s(0.5), happened.quantile_s(0.99)
    return (
        happened.requests / seconds,
        happened.errors / seconds,
        math.nan if p50 is None else p50,
        math.nan if p99 is None else p99,
        float(happened.waiting),
        happened.batch,
        happened.tokens / seconds,
        float(happened.memory_bytes),
    )


def added(parts: Sequence[Steps], step_s: int, since: int) -> Steps:
    """Several models together. What cannot be added up is not known."""
    filled = [part for part in parts if len(part.rows)]
    if not filled:
        return Steps(since, step_s, np.zeros((0, len(SERIES)), np.float32))
    begin = min(part.begin for part in filled)
    end = max(part.begin + step_s * len(part.rows) for part in filled)
    rows = np.zeros(((end - begin) // step_s, len(SERIES)), np.float32)
    for part in filled:
        first = (part.begin - begin) // step_s
        rows[first : first + len(part.rows)] += np.nan_to_num(part.rows)
    rows[:, [SERIES.index(name) for name in PER_MODEL]] = math.nan
    return Steps(begin, step_s, rows)
