"""Which models doze or are asleep, and how much each model is used.

A model that dozes keeps its processes without the weights, one that sleeps has none; its launch stays, and whoever asks
for it wakes it. Pure: time is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cluster.control.lifecycle import WorkerRecord
from cluster.facts import SentFacts
from cluster.launch import Wanted
from cluster.settings import Settings
from cluster.status import WorkerState
from cluster.value import Value

#: Of a use so long ago a third counts.
MEMORY_S = 600.0
#: By how much a load took longer than usual, only this part of it counts.
LONGER_PART = 0.2


class Rest(Value):
    """What is stored of a model that rests, or has rested."""

    is_asleep: bool
    is_dozing: bool = False
    #: Why it was sent to rest; empty while it is awake.
    reason: str = ""
    #: How long it took to load, in a new process and in one that dozed; 0 where it never was.
    load_s: float = 0.0
    rouse_s: float = 0.0
    #: After how long without a request it sleeps, where its last one said; 0 for never.
    kept_s: float | None = None


@dataclass(frozen=True)
class Spells:
    """How often a model is used: a spell of use begins with the first request after a quiet second."""

    #: Older ones for less.
    count: float = 0.0
    #: Until when they are counted.
    at: float = 0.0

    def later(self, now: float, more: int = 0) -> Spells:
        return Spells(self.count * math.exp((self.at - now) / MEMORY_S) + more, now)


def usual_s(before_s: float | None, took_s: float) -> float:
    """How long it usually takes. What took longer for once has mostly waited for other work of the machine, and by that
    the wrong one would give way."""
    if before_s is None or took_s <= before_s:
        return took_s
    return before_s + LONGER_PART * (took_s - before_s)


class IdleLimits(NamedTuple):
    """After how long without a request a model dozes, and sleeps; 0 for never."""

    doze_s: float
    sleep_s: float


NO_LIMITS = IdleLimits(0.0, 0.0)


@dataclass
class Resting:
    """Of all models that are wanted."""

    #: With the reason for each.
    asleep: dict[str, str] = field(default_factory=dict)
    dozing: dict[str, str] = field(default_factory=dict)
    #: Models that are started because somebody waits for them, and since when.
    woken: dict[str, float] = field(default_factory=dict)
    #: For models that have waited for long: the node where others are to start nothing before they have room there.
    kept_nodes: dict[str, str] = field(default_factory=dict)
    #: How long each took to load, and what it said of itself then.
    load_s: dict[str, float] = field(default_factory=dict)
    facts: dict[str, SentFacts] = field(default_factory=dict)
    #: How long each took to load again after it dozed, and what one of its workers takes while it does.
    rouse_s: dict[str, float] = field(default_factory=dict)
    dozing_bytes: dict[str, int] = field(default_factory=dict)
    #: Models whose workers have nothing to do, and since when.
    idle: dict[str, float] = field(default_factory=dict)
    #: Of the models that may not be idle for ever, which each tick looks at.
    limits: dict[str, IdleLimits] = field(default_factory=dict)
    #: The same of models of which a request said otherwise, until they sleep.
    kept: dict[str, IdleLimits] = field(default_factory=dict)
    #: Those of `woken` that dozed before.
    _roused: set[str] = field(default_factory=set)
    _spells: dict[str, Spells] = field(default_factory=dict)

    def see(self, before: WorkerRecord, after: WorkerRecord, siblings: Collection[WorkerRecord], now: float) -> bool:
        """Takes what a worker reports; `siblings` are all workers of its model. Whether that ends its waking."""
        uid = after.name.uid
        was_woken = uid in self.woken
        more = after.report.spells - before.report.spells
        if more > 0:
            self.use(uid, now, more)
        if after.state == WorkerState.READY and before.state != WorkerState.READY:
            took_s = self.rouse_s if after.report.loads > 1 else self.load_s
            took_s[uid] = usual_s(took_s.get(uid), after.report.load_seconds)
            self.facts[uid] = after.report.facts
        if after.state in (WorkerState.READY, WorkerState.FAILED):
            self._end_waking(uid)
        if after.state == WorkerState.DOZING:
            self.dozing_bytes[uid] = after.claim.memory_bytes
        if uid in self.dozing:
            self.idle.setdefault(uid, now)
        elif all(worker.state == WorkerState.READY and worker.report.is_idle for worker in siblings):
            self.idle.setdefault(uid, now)
        else:
            self.idle.pop(uid, None)
        return was_woken and uid not in self.woken

    def heed(self, wanted: Wanted, settings: Settings) -> None:
        """It is wanted like this from now on."""
        self.kept.pop(wanted.uid, None)
        limits = IdleLimits(idle_doze_s(wanted, settings), idle_sleep_s(wanted, settings))
        if any(limits):
            self.limits[wanted.uid] = limits
        else:
            self.limits.pop(wanted.uid, None)

    def keep(self, uid: str, sleep_s: float) -> bool:
        """It sleeps so long after its last request, from now on; False where it did already."""
        before = self.limits_of(uid)
        # Whoever wants it to stay wants it with its weights.
        self.kept[uid] = IdleLimits(0.0, sleep_s)
        return before != self.kept[uid]

    def limits_of(self, uid: str) -> IdleLimits:
        return self.kept.get(uid) or self.limits.get(uid, NO_LIMITS)

    def left_s(self, uid: str, now: float) -> float | None:
        """How long it stays yet if nobody asks for it; None for ever."""
        limit_s = self.limits_of(uid).sleep_s
        return max(limit_s - (now - self.idle.get(uid, now)), 0.0) if limit_s else None

    def use(self, uid: str, now: float, more: int = 1) -> None:
        self._spells[uid] = self._spells.get(uid, Spells(at=now)).later(now, more)

    def spells(self, uid: str, now: float) -> float:
        return self._spells.get(uid, Spells()).later(now).count

    def put_to_sleep(self, uid: str, reason: str) -> None:
        self.asleep[uid] = reason
        self.kept.pop(uid, None)
        self.dozing.pop(uid, None)
        self.idle.pop(uid, None)
        self._end_waking(uid)

    def let_doze(self, uid: str, reason: str) -> None:
        """It may go on to sleep as if it were idle all the while."""
        self.dozing[uid] = reason
        self._end_waking(uid)

    def _end_waking(self, uid: str) -> None:
        self.woken.pop(uid, None)
        self._roused.discard(uid)

    def rests(self, uid: str) -> bool:
        return uid in self.asleep or uid in self.dozing

    def wake(self, uid: str, now: float) -> bool:
        """False where it is awake."""
        if not self.rests(uid):
            return False
        if uid in self.dozing:
            self._roused.add(uid)
        self.asleep.pop(uid, None)
        self.dozing.pop(uid, None)
        self.idle.pop(uid, None)
        self.woken[uid] = now
        self.use(uid, now)
        return True

    def awake(
        self, wanted: Mapping[str, Wanted], uids: Collection[str], served: Collection[str], now: float
    ) -> dict[str, Wanted]:
        """Those of `uids` that do not sleep, in the order in which they get room: those of the highest priority, and of
        these first those that serve or were lost, whose room it was; then whoever waits longest for it."""
        awake = [uid for uid in wanted if uid in uids and uid not in self.asleep]

        def turn_of(uid: str) -> tuple[int, float]:
            return -wanted[uid].spec.rank, self.woken.get(uid, 0.0 if uid in served else now)

        return {uid: wanted[uid] for uid in sorted(awake, key=turn_of)}

    def forget(self, uid: str) -> None:
        self._end_waking(uid)
        for table in (self.asleep, self.dozing, self.load_s, self.rouse_s, self.facts, self.idle, self._spells):
            table.pop(uid, None)
        self.dozing_bytes.pop(uid, None)
        self.limits.pop(uid, None)
        self.kept.pop(uid, None)

    def remember(self, uid: str, rest: Rest) -> None:
        """What an earlier supervisor knew."""
        if rest.is_asleep or rest.is_dozing:
            (self.asleep if rest.is_asleep else self.dozing)[uid] = rest.reason
        if rest.load_s:
            self.load_s[uid] = rest.load_s
        if rest.rouse_s:
            self.rouse_s[uid] = rest.rouse_s
        if rest.kept_s is not None:
            self.keep(uid, rest.kept_s)

    def stored(self, uid: str) -> Rest:
        return Rest(
            is_asleep=uid in self.asleep,
            is_dozing=uid in self.dozing,
            reason=self.asleep.get(uid) or self.dozing.get(uid, ""),
            load_s=self.load_s.get(uid, 0.0),
            rouse_s=self.rouse_s.get(uid, 0.0),
            kept_s=self.kept[uid].sleep_s if uid in self.kept else None,
        )

    def wake_s(self, uid: str) -> float | None:
        """How long waking it takes, or would where it slept; None where nobody knows."""
        return self.rouse_s.get(uid) if uid in self.dozing or uid in self._roused else self.load_s.get(uid)

    def story(self, uid: str) -> str:
        """Why it rests, and what waking it costs."""
        reason, wake_s = self.asleep.get(uid) or self.dozing[uid], self.wake_s(uid)
        return f"{reason}; the next request wakes it" + (f", which takes about {wake_s:.1f} s" if wake_s else "")


def idle_sleep_s(wanted: Wanted, settings: Settings) -> float:
    """After how long without a request it sleeps; 0 for never."""
    own, usual = wanted.spec.idle_sleep_s, settings.idle_sleep_s
    if not may_rest(wanted):
        return 0.0
    usual = usual or (settings.scale_down_s if wanted.spec.bounds is not None else 0.0)
    return usual if own is None else own


def idle_doze_s(wanted: Wanted, settings: Settings) -> float:
    """After how long without a request it dozes; 0 for never."""
    own = wanted.spec.idle_doze_s
    return 0.0 if not may_rest(wanted) else settings.idle_doze_s if own is None else own


def may_rest(wanted: Wanted) -> bool:
    bounds = wanted.spec.bounds
    return not wanted.spec.pinned and (bounds is None or not bounds.min)
