"""New versions on trial: a worker of the new version serves a part of the requests beside the old one, and what both
make of them decides which stays. Pure: time is passed in.

How requests went is what the ingresses count; nothing is asked on their way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Literal, NamedTuple

from cluster.launch import Wanted
from cluster.status import VersionFigures
from cluster.tally import CanaryTally, Tally, together
from cluster.value import Value

#: What fails once may have been its node; from so many faults on it is looked at how likely they are by chance.
LEAST_FAULTS = 2
#: A part of the requests that may fail whatever the version, where the old one failed none.
USUAL_FAULTS = 0.005
#: How unlikely a difference must be by chance before it counts: the decision is made again with every second.
UNLIKELY = 1e-4
#: A version is slower where it takes this much longer for most requests, or that much for the slowest.
SLOWER = 1.5
SLOWEST = 2.0
SLOWEST_PART = 0.95
#: Differences shorter than this are none.
NOTICED_S = 0.01
#: So many requests of both have to be timed before they are compared, and before the slowest of them are.
LEAST_TIMED = 30
LEAST_SLOWEST = 100
#: Standard deviations that the ranks of the times have to differ by.
RANKS_DIFFER = 4.0
#: From so many on, counts are as good as normally distributed.
MANY = 100.0
#: A model that gets fewer requests than it should be judged by goes on after so many times the time for it.
LONGEST_TIMES = 10.0
#: Workers of a version that are lost so often on trial say enough.
MOST_LOSSES = 3


class Canary(Value):
    """What is stored of a model with a version on trial: what to return to."""

    generation: int
    percent: float
    #: As it was wanted before.
    before: Wanted


class CanaryLimits(NamedTuple):
    """For so long, and with so many requests, a version has to serve as well as the old one."""

    seconds: float
    requests: int


class Ruling(NamedTuple):
    verdict: Literal["wait", "go on", "return"]
    why: str


@dataclass
class Canaries:
    """Of all models."""

    on_trial: dict[str, Canary] = field(default_factory=dict)
    #: Since when the version on trial serves.
    since: dict[str, float] = field(default_factory=dict)
    #: How the trial stands.
    why: dict[str, str] = field(default_factory=dict)
    #: What each ingress has counted, by the uid of the model.
    _tallies: dict[str, dict[str, CanaryTally]] = field(default_factory=dict)

    def begin(self, uid: str, canary: Canary) -> None:
        before = self.on_trial.get(uid)
        if before is None or before.generation != canary.generation:
            self.forget(uid)
        self.on_trial[uid] = canary

    def heed(self, wanted: Wanted) -> None:
        """It is wanted like this from now on: a trial of another version is over."""
        canary = self.on_trial.get(wanted.uid)
        if canary is not None and canary.generation != wanted.generation:
            self.forget(wanted.uid)

    def forget(self, uid: str) -> None:
        for table in (self.on_trial, self.since, self.why, self._tallies):
            table.pop(uid, None)

    def hear(self, ingress: str, tally: CanaryTally) -> bool:
        """False where that version is not on trial any more."""
        canary = self.on_trial.get(tally.uid)
        if canary is None or canary.generation != tally.generation:
            return False
        self._tallies.setdefault(tally.uid, {})[ingress] = tally
        return True

    def counted(self, uid: str) -> tuple[Tally, Tally]:
        """Of the version on trial, and of the old one."""
        tallies = self._tallies.get(uid, {}).values()
        return together(tally.canary for tally in tallies), together(tally.stable for tally in tallies)

    def serving(self, wanted: Wanted) -> Wanted:
        """The version that serves: the old one while the wanted one is on trial, with as many replicas as the load has
        brought about meanwhile."""
        canary = self.on_trial.get(wanted.uid)
        if canary is None:
            return wanted
        bounds = canary.before.spec.bounds
        if bounds is None or wanted.spec.bounds is None:
            return canary.before
        return canary.before.scaled(bounds.nearest(wanted.replica))


def judged(canary: Tally, stable: Tally, served_s: float, limits: CanaryLimits) -> Ruling:
    """Whether a version that has served a part of the requests for so long takes the place of the old one."""
    expected = max(USUAL_FAULTS, stable.faults / max(stable.requests, 1)) * canary.requests
    if canary.faults >= LEAST_FAULTS and is_unlikely(canary.faults, expected):
        failed = f"{canary.faults} of {canary.requests} requests failed"
        return Ruling("return", f"{failed}, of the old version {stable.faults} of {stable.requests}")
    if slower := _how_slow(canary, stable):
        return Ruling("return", slower)
    figures = f"{_count(canary)}, of the old version {_count(stable)}"
    if served_s < limits.seconds:
        return Ruling("wait", f"{figures}; it is judged after {limits.seconds:g} s")
    if canary.requests < limits.requests and served_s < LONGEST_TIMES * limits.seconds:
        return Ruling("wait", f"{figures}; it is judged after {limits.requests} requests")
    return Ruling("go on", figures)


def next_of(canary: Canary, counted: Tally, limits: CanaryLimits, is_serving: bool) -> str:
    """What happens next, if nobody wants something else."""
    if not is_serving:
        return f"When it is loaded, it gets {canary.percent:g} % of the requests."
    missing = max(limits.requests - counted.requests, 0)
    more = f" and answered {missing} more {'request' if missing == 1 else 'requests'}" if missing else ""
    return (
        f"It takes all requests when it has served for {limits.seconds:g} s{more}; "
        f"generation {canary.before.generation} comes back if more of its requests fail or take longer."
    )


def figures_of(tally: Tally) -> VersionFigures:
    timed = bool(tally.times)
    return VersionFigures(
        requests=tally.requests,
        failed=tally.faults,
        median_s=tally.quantile_s(0.5) if timed else None,
        slowest_s=tally.quantile_s(SLOWEST_PART) if timed else None,
    )


def _count(tally: Tally) -> str:
    text = f"{tally.requests} requests, {tally.faults} failed"
    return f"{text}, median {_time(tally.quantile_s(0.5))}" if tally.timed else text


def _how_slow(canary: Tally, stable: Tally) -> str:
    """Empty where it is not slower, as far as that can be told."""
    if min(canary.timed, stable.timed) < LEAST_TIMED:
        return ""
    new, old = canary.quantile_s(0.5), stable.quantile_s(0.5)
    if new > SLOWER * old + NOTICED_S and ranks_differ_by(canary, stable) > RANKS_DIFFER:
        return f"its median is {_time(new)} in {canary.timed} requests, that of the old version {_time(old)}"
    new, old = canary.quantile_s(SLOWEST_PART), stable.quantile_s(SLOWEST_PART)
    beyond, is_enough = canary.slower_than(old), min(canary.timed, stable.timed) >= LEAST_SLOWEST
    if is_enough and new > SLOWEST * old + NOTICED_S and is_unlikely(beyond, (1 - SLOWEST_PART) * canary.timed):
        return (
            f"{beyond} of {canary.timed} requests took longer than {_time(old)}, "
            f"which {SLOWEST_PART:.0%} of those of the old version did not"
        )
    return ""


def ranks_differ_by(canary: Tally, stable: Tally) -> float:
    """By how many standard deviations the times of the one are longer than those of the other, told by their ranks, so
    that a few long ones prove nothing."""
    shorter, longer_pairs = 0, 0.0
    stable_times = dict(stable.times)
    for step in sorted({*stable_times, *dict(canary.times)}):
        new, old = dict(canary.times).get(step, 0), stable_times.get(step, 0)
        longer_pairs += new * (shorter + old / 2)
        shorter += old
    pairs = canary.timed * stable.timed
    return (longer_pairs - pairs / 2) / math.sqrt(pairs * (canary.timed + stable.timed + 1) / 12)


def is_unlikely(count: int, expected: float) -> bool:
    """Whether so many things hardly happen by chance where on average so few do."""
    if count <= expected:
        return False
    if expected > MANY:
        return (count - expected) / math.sqrt(expected) > -NormalDist().inv_cdf(UNLIKELY)
    term = at_most = math.exp(-expected)
    for number in range(1, count):
        term *= expected / number
        at_most += term
    return 1 - at_most < UNLIKELY


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
