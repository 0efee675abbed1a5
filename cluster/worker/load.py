"""Measures what a worker has to do while it is used, and tells it when it has changed much.

Nothing is counted for each request: the queue is looked at ten times a second, and not at all while the worker is idle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from cluster import errors
from cluster.status import Load

#: How often the queue is looked at, and over how many looks its load is averaged; it is told after as many, at most.
LOOK_S = 0.1
LOOKS = 10
#: How much the newest look counts in how much of it is used: that is averaged over a few seconds.
NEWEST = 0.03
#: What is news: a time that differs by this part and by so many seconds, other requests by this part and by one of
#: them, and this much more or less of it used.
NEWS_PART = 0.2
NEWS_S = 0.02
NEWS_USED = 0.1
#: The fastest that it was is forgotten by this part with each look: half of it in a quarter of an hour.
SLOWER = 0.693 / (900 / LOOK_S)


class Backlog(NamedTuple):
    """What a queue holds, in whatever unit its family counts costs in."""

    waiting: float = 0.0
    running: float = 0.0
    #: Cost per second; 0 while that is not known.
    speed: float = 0.0
    #: How long the oldest request has waited.
    oldest_s: float = 0.0
    #: The part of its places that is taken; None where the speed shows better how much of it is used.
    taken: float | None = None


class LoadMeter:
    """Used from the loop that serves requests."""

    def __init__(self, look: Callable[[], Backlog], requests: Callable[[], int], tell: Callable[..., None]) -> None:
        """`tell` takes fields of a report."""
        self._look = look
        self._requests = requests
        self._tell = tell
        self._told = Load()
        self._sum = Load()
        self._looks = 0
        self._used = 0.0
        self._refuses = False
        self._fastest = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def see_idleness(self, is_idle: bool, spells: int) -> None:
        if is_idle and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif not is_idle and self._timer is None:
            self._sum, self._looks, self._used = Load(), 0, 0.0
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._again)
        if is_idle:
            self._told = Load()
        self._tell(is_idle=is_idle, spells=spells, load=self._told)

    def see_failure(self, error: errors.ClusterError) -> None:
        self._refuses = self._refuses or isinstance(error, errors.Overloaded)

    def _again(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._again)
        backlog, total = self._look(), self._sum
        waiting_s = backlog.waiting / backlog.speed if backlog.speed else backlog.oldest_s
        running_s = backlog.running / backlog.speed if backlog.speed else 0.0
        self._fastest = max(self._fastest * (1 - SLOWER), backlog.speed)
        used = backlog.taken
        if used is None:
            used = backlog.speed / self._fastest if backlog.running and self._fastest else 0.0
        self._used += NEWEST * (used - self._used)
        requests = total.requests + self._requests()
        self._sum = Load(total.waiting_s + waiting_s, total.running_s + running_s, requests)
        self._looks += 1
        if self._looks == LOOKS:
            self._end_second()

    def _end_second(self) -> None:
        total, self._sum, self._looks = self._sum, Load(), 0
        refuses, self._refuses = self._refuses, False
        load = Load(total.waiting_s / LOOKS, total.running_s / LOOKS, total.requests / LOOKS, self._used, refuses)
        if is_news(self._told, load):
            self._told = load
            self._tell(load=load)


def is_news(told: Load, load: Load) -> bool:
    return (
        _differs(told.waiting_s, load.waiting_s, NEWS_S)
        or _differs(told.running_s, load.running_s, NEWS_S)
        or _differs(told.requests, load.requests, 0.5)
        or abs(told.used - load.used) > NEWS_USED
        or told.refuses != load.refuses
    )


def _differs(before: float, now: float, least: float) -> bool:
    return abs(now - before) > max(least, NEWS_PART * max(before, now))
