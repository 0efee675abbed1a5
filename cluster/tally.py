"""How the requests to one version of a model went, counted so that the counts of several processes add up. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

#: Times are counted in steps of a fifth: so many of them double a time.
PER_DOUBLING = 4


class Tally(NamedTuple):
    requests: int = 0
    #: Those that the version failed, and not its callers.
    faults: int = 0
    #: How many took how long: a step, see `step_of`, and how many fell into it.
    times: tuple[tuple[int, int], ...] = ()

    @property
    def timed(self) -> int:
        return sum(count for _, count in self.times)

    def quantile_s(self, part: float) -> float:
        """No request took longer, but for the rest of that part; 0 where none was timed."""
        rank, passed = part * self.timed, 0
        for step, count in self.times:
            passed += count
            if passed >= rank:
                return seconds_of(step)
        return 0.0

    def slower_than(self, seconds: float) -> int:
        return sum(count for step, count in self.times if seconds_of(step) > seconds)


class CanaryTally(NamedTuple):
    """What one ingress has counted of both versions since a new one came on trial."""

    uid: str
    #: Of the version on trial.
    generation: int
    canary: Tally
    stable: Tally


@dataclass
class Counting:
    """A tally that grows."""

    requests: int = 0
    faults: int = 0
    times: Counter[int] = field(default_factory=Counter)

    def answered(self, seconds: float | None) -> None:
        """None for an answer that was kept from before, which says nothing of how quick the version is."""
        self.requests += 1
        if seconds is not None:
            self.times[step_of(seconds)] += 1

    def failed(self) -> None:
        self.requests += 1
        self.faults += 1

    @property
    def so_far(self) -> Tally:
        return Tally(self.requests, self.faults, tuple(sorted(self.times.items())))


def step_of(seconds: float) -> int:
    return math.floor(PER_DOUBLING * math.log2(max(seconds, 1e-6)))


def seconds_of(step: int) -> float:
    """The middle of a step."""
    return float(2.0 ** ((step + 0.5) / PER_DOUBLING))


def together(tallies: Iterable[Tally]) -> Tally:
    requests, faults, times = 0, 0, Counter[int]()
    for tally in tallies:
        requests, faults = requests + tally.requests, faults + tally.faults
        times.update(dict(tally.times))
    return Tally(requests, faults, tuple(sorted(times.items())))
