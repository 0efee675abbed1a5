"""Lets models doze or sleep that nobody uses, and wakes them for whoever asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cluster import errors
from cluster.control.fleet import Fleet
from cluster.control.lifecycle import ALIVE, RESTS
from cluster.control.making_room import tell_ways, ways_of
from cluster.control.publishing import Publisher
from cluster.control.reconcile import FleetPlan
from cluster.control.records import Records
from cluster.control.rescaling import give_back, note
from cluster.control.resting import may_rest
from cluster.control.store import ITSELF
from cluster.durations import AT_ONCE_S
from cluster.launch import priority_text
from cluster.status import ModelStatus, WorkerState

GAVE_WAY = "gave way to another model"


def put_to_sleep(fleet: Fleet, uid: str, reason: str) -> None:
    """Its workers go, and none is started until it is woken."""
    fleet.resting.put_to_sleep(uid, reason)
    fleet.workers.touch(uid)


def let_doze(fleet: Fleet, uid: str, reason: str) -> bool:
    """Its workers drop the model, and keep their processes until it is woken. False where none of them could: then it
    sleeps."""
    if not any(worker.state in RESTS | {WorkerState.READY} for worker in fleet.workers.of(uid)):
        put_to_sleep(fleet, uid, reason)
        return False
    fleet.resting.let_doze(uid, reason)
    fleet.workers.touch(uid)
    return True


def end_dozing(fleet: Fleet, uid: str, plan: FleetPlan) -> None:
    """Adds to the plan that the processes end in which it dozed, and which wait for room to load it again."""
    going = [*plan.drain, *plan.rouse]
    plan.drain += [w for w in fleet.workers.of(uid) if w.state == WorkerState.DOZING and w not in going]


def end_serving(fleet: Fleet, uid: str, plan: FleetPlan) -> None:
    """Adds to the plan that the processes end which serve it: with the next plan it may be awake again, since its
    callers wake it at once."""
    plan.drain += [w for w in fleet.workers.of(uid) if w.state in ALIVE and w not in plan.drain]


def fallen_asleep(fleet: Fleet) -> list[str]:
    """Models that dozed, and of which no process is left."""
    dozing = fleet.resting.dozing
    return [uid for uid in dozing if not any(w.state in RESTS | {WorkerState.READY} for w in fleet.workers.of(uid))]


def wake(fleet: Fleet, uid: str, now: float) -> bool:
    """False where it does not rest."""
    is_woken = fleet.resting.wake(uid, now)
    if is_woken:
        # Whatever ended its last workers, somebody waits for the next ones.
        fleet.forget_losses(uid)
        fleet.workers.touch(uid)
    return is_woken


def drowsy(fleet: Fleet, now: float) -> list[str]:
    """The models that have been idle for as long as they may be before they doze."""
    resting = fleet.resting
    return [
        uid
        for uid in {**resting.limits, **resting.kept}
        if not resting.rests(uid) and _is_idle_for(fleet, uid, resting.limits_of(uid).doze_s, now)
    ]


def tired(fleet: Fleet, now: float) -> list[str]:
    """The models that have been idle for as long as they may be before they sleep."""
    resting = fleet.resting
    every = {**resting.limits, **resting.kept}
    return [uid for uid in every if _is_idle_for(fleet, uid, resting.limits_of(uid).sleep_s, now)]


def _is_idle_for(fleet: Fleet, uid: str, limit_s: float, now: float) -> bool:
    since = fleet.resting.idle.get(uid)
    return limit_s > 0 and since is not None and now - since >= limit_s and uid not in fleet.unreadable


def over_of(fleet: Fleet, gone: str, uid: str) -> str:
    """By which priority it gives way; empty where both have the same."""
    lower, higher = fleet.wanted[gone].spec.rank, fleet.wanted[uid].spec.rank
    if lower == higher:
        return ""
    use = "" if fleet.resting.rests(gone) or gone in fleet.resting.idle else ", though it was in use"
    return f", whose priority is {priority_text(higher)} and not {priority_text(lower)}{use}"


def _idle_for(seconds: float) -> str:
    return "not kept after its last request" if seconds <= AT_ONCE_S else f"idle for {seconds:g} s"


class Sleeping:
    """What it decides is written down with the next tick. Lost before that, a model is awake that could sleep."""

    def __init__(
        self,
        fleet: Fleet,
        records: Records,
        publisher: Publisher,
        clock: Callable[[], float],
        wake: asyncio.Event,
    ) -> None:
        """`wake` begins the next tick at once."""
        self._fleet = fleet
        self._records = records
        self._publisher = publisher
        self._clock = clock
        self._wake = wake

    def plan(self, now: float) -> FleetPlan:
        """The plan of the fleet. Lets rest what has been idle for as long as it may be, and what gives way to models
        that have no room; the latter leave with the next plan."""
        for uid in tired(self._fleet, now):
            self.put_to_sleep(uid, _idle_for(self._fleet.resting.limits_of(uid).sleep_s))
        for uid in drowsy(self._fleet, now):
            self._let_doze(uid, _idle_for(self._fleet.resting.limits_of(uid).doze_s))
        for uid in fallen_asleep(self._fleet):
            self.put_to_sleep(uid, f"its process ended while it dozed ({self._fleet.resting.dozing[uid]})")
        plan = self._fleet.plan(now)
        self._make_room(plan, now)
        return plan

    def _make_room(self, plan: FleetPlan, now: float) -> None:
        ways = ways_of(self._fleet, now, plan)
        tell_ways(self._fleet, ways)
        # One that serves on several nodes may give way to several.
        for yielding in dict.fromkeys(uid for way in ways.values() for uid in way.yielding):
            if (change := give_back(self._fleet, yielding, now)) is not None:
                note(self._records, change)
                self._wake.set()
        leaving = {gone: uid for uid, way in ways.items() for gone in (*way.ending, *way.dozing, *way.leaving)}
        asleep = {gone for way in ways.values() for gone in way.leaving}
        dozing = {gone for way in ways.values() for gone in way.dozing}
        for gone, uid in leaving.items():
            over = over_of(self._fleet, gone, uid)
            if gone in asleep:
                self.put_to_sleep(gone, GAVE_WAY)
                end_serving(self._fleet, gone, plan)
            elif gone in dozing:
                self._let_doze(gone, GAVE_WAY)
            else:
                end_dozing(self._fleet, gone, plan)
            self._records.tell(ITSELF, "INFO", f"{gone} gave way to {uid}{over}")
            self._wake.set()

    def put_to_sleep(self, uid: str, reason: str) -> None:
        put_to_sleep(self._fleet, uid, reason)
        self._note(uid, f"Goes to sleep: {reason}")

    def _let_doze(self, uid: str, reason: str) -> None:
        dozes = let_doze(self._fleet, uid, reason)
        self._note(uid, f"{'Dozes' if dozes else 'Goes to sleep'}: {reason}")

    async def doze(self, uid: str) -> ModelStatus:
        self._refuse_pinned(uid)
        if not self._fleet.resting.rests(uid):
            self._let_doze(uid, "somebody let it doze")
            self._publisher.publish()
            self._wake.set()
        return self._publisher.statuses.value[uid]

    async def sleep(self, uid: str) -> ModelStatus:
        self._refuse_pinned(uid)
        if uid not in self._fleet.resting.asleep:
            self.put_to_sleep(uid, "somebody sent it to sleep")
            self._publisher.publish()
            self._wake.set()
        return self._publisher.statuses.value[uid]

    async def wake(self, uid: str) -> ModelStatus:
        """Nobody waits here: the status tells when it is READY."""
        self._refuse(uid)
        dozes = uid in self._fleet.resting.dozing
        if wake(self._fleet, uid, self._clock()):
            self._note(uid, f"Wakes up{' from its doze' if dozes else ''}: somebody asks for it")
            self._publisher.publish()
            self._wake.set()
        return self._publisher.statuses.value[uid]

    async def keep(self, uid: str, sleep_s: float) -> None:
        """It sleeps so long after its last request; 0 for never. What must never sleep stays all the same."""
        self._refuse(uid)
        resting = self._fleet.resting
        # One that sleeps has nothing in hand: the request that said so is over.
        if may_rest(self._fleet.wanted[uid]) and uid not in resting.asleep and resting.keep(uid, sleep_s):
            self._records.put_later("rest", uid, resting.stored(uid).model_dump(mode="json"))
            self._fleet.workers.untold.add(uid)
            self._wake.set()

    def left_s(self) -> dict[str, float | None]:
        """How long each model stays yet that does not sleep, if nobody asks for it; None for ever."""
        now, resting = self._clock(), self._fleet.resting
        return {uid: resting.left_s(uid, now) for uid in self._fleet.wanted if uid not in resting.asleep}

    def _note(self, uid: str, text: str) -> None:
        rest = self._fleet.resting.stored(uid)
        self._records.put_later("rest", uid, rest.model_dump(mode="json"))
        self._records.tell(uid, "INFO", text)

    def _refuse_pinned(self, uid: str) -> None:
        self._refuse(uid)
        if self._fleet.wanted[uid].spec.pinned:
            raise errors.Conflict(f"{uid} is pinned, so it never sleeps; launch it without pinned.", "model_uid")

    def _refuse(self, uid: str) -> None:
        if uid not in self._fleet.wanted:
            raise errors.UnknownUid(f"Model not found in the model list, uid: {uid}", "model_uid")
        if uid in self._fleet.unreadable:
            raise errors.Conflict(f"{uid} cannot be changed. {self._fleet.unreadable[uid]}", "model_uid")
