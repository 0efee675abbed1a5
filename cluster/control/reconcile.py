"""Compares what is wanted with what runs and says what to do; computing the plan does nothing.

Order is part of the plan: route out, drain, then kill; warm, then route in. A new generation starts beside the old one
where there is room, and takes its place one by one where there is not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from cluster.control.canary import Canaries
from cluster.control.lifecycle import ALIVE, ENDED, LEAVES, PREFERENCE, RESTS, SERVES, WORKS, WorkerRecord
from cluster.control.peaks import Peaks
from cluster.control.placement import Demand, NoRoom, Placement, demand_of
from cluster.control.room import Room
from cluster.errors import DoesNotFit
from cluster.launch import Wanted
from cluster.status import Node, WorkerName, WorkerState

S = WorkerState

#: After a worker has served this long, its index's earlier losses no longer delay a restart.
GOOD_RUN_S = 300.0
#: Without room for both, an old worker gives way to its successor, unless that was lost this many times already.
LOSSES_TO_GIVE_WAY = 3


@dataclass(frozen=True)
class Start:
    name: WorkerName
    wanted: Wanted
    placement: Placement
    why: str


class Waiting(NamedTuple):
    """Why a model that is short of workers is not given more now; `code` is the error a caller would see."""

    reason: str
    code: str = ""


@dataclass
class FleetPlan:
    start: list[Start] = field(default_factory=list)
    #: Stop politely: READY workers finish what they have, others are killed by their `drain` transition.
    drain: list[WorkerRecord] = field(default_factory=list)
    #: READY workers that are to drop their model, and others that are to load it again.
    doze: list[WorkerRecord] = field(default_factory=list)
    rouse: list[WorkerRecord] = field(default_factory=list)
    #: Nothing more will happen to these: kill the process if there is one and drop the record.
    forget: list[WorkerRecord] = field(default_factory=list)
    waiting: dict[str, Waiting] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.start or self.drain or self.doze or self.rouse or self.forget)


@dataclass(frozen=True)
class Loss:
    """How often an index of a model was lost lately, and when it may be started again."""

    count: int
    not_before: float
    wait_s: float = 0.0

    def again(self, now: float, longest_s: float) -> Loss:
        wait_s = min(longest_s, 2.0 ** min(self.count, 30))
        return Loss(self.count + 1, now + wait_s, wait_s)

    def story(self) -> str:
        """Stays the same until the next loss. With the seconds that are left in it, the whole table of routes would be
        sent to every ingress each second."""
        how_often = "once" if self.count == 1 else f"{self.count} times"
        return f"lost {how_often}, started again {self.wait_s:.0f} s after the last loss"


NO_LOSS = Loss(0, float("-inf"))


def reconcile(
    wanted: Mapping[str, Wanted],
    workers: Sequence[WorkerRecord],
    room: Room,
    *,
    now: float,
    new_suffix: Callable[[], str],
    losses: Mapping[tuple[str, int], Loss] | None = None,
    hold: str = "",
    last_ready: Mapping[str, Wanted] | None = None,
    old_losses: Mapping[tuple[str, int], Loss] | None = None,
    untouched: Collection[str] = (),
    peaks: Peaks | None = None,
    dozing: Collection[str] = (),
    canaries: Canaries | None = None,
    kept_nodes: Mapping[str, str] | None = None,
) -> FleetPlan:
    """The difference between what is wanted and what runs, of these models with all their workers; `room` is what is
    left beside the workers of all models.

    `hold` says why nothing may be started now. `last_ready` holds each model as it was wanted when it last was READY:
    until the present version is READY, as many workers of that one are kept running as the present one lacks;
    `old_losses` are the losses of those. Workers on a node that drains go once others are READY elsewhere. Those of the
    models in `untouched` are left as they are. `peaks`: what launches were measured to take. Nothing is started for the
    models in `dozing`. While a new version is on trial, as `canaries` tells, the old one serves as it did. A node in
    `kept_nodes` gives nothing to those that come after its model while that waits.
    """
    last_ready, canaries = last_ready or {}, canaries or Canaries()
    leaving = {node.id for node in room.nodes if node.draining}
    kept = kept_nodes or {}
    planning = _Planning(room, now, new_suffix, losses or {}, old_losses or {}, hold, peaks or {}, leaving, kept)
    plan = planning.plan
    by_model: dict[str, list[WorkerRecord]] = {}
    for worker in workers:
        by_model.setdefault(worker.name.uid, []).append(worker)
        target = wanted.get(worker.name.uid)
        is_current = target is not None and worker.name.generation == target.generation
        if worker.state in (S.GONE, S.LOST) or (worker.state == S.FAILED and not is_current):
            plan.forget.append(worker)
        elif worker.name.uid in untouched:
            continue
        elif target is None and worker.state in ALIVE | RESTS:
            plan.drain.append(worker)
    for uid, target in wanted.items():
        if uid in dozing and uid not in untouched:
            planning.let_doze(canaries.serving(target), by_model.get(uid, ()))
        elif uid not in untouched and uid in canaries.on_trial:
            planning.plan_trial(target, canaries.serving(target), by_model.get(uid, ()))
        elif uid not in untouched:
            planning.plan_model(target, last_ready.get(uid, target), by_model.get(uid, ()))
    return plan


@dataclass
class _Planning:
    """A plan being made. What is started takes its room before the next model is looked at."""

    room: Room
    now: float
    new_suffix: Callable[[], str]
    losses: Mapping[tuple[str, int], Loss]
    old_losses: Mapping[tuple[str, int], Loss]
    hold: str
    peaks: Peaks
    #: Nodes that drain.
    leaving: Collection[str]
    kept_nodes: Mapping[str, str]
    plan: FleetPlan = field(default_factory=FleetPlan)

    def let_doze(self, target: Wanted, workers: Sequence[WorkerRecord]) -> None:
        """What serves or rests in its place rests; the others end, as do those that cannot rest where they are."""
        current = [w for w in workers if w.name.generation == target.generation and w.node not in self.leaving]
        kept, _ = _keep([w for w in current if w.state in RESTS | {S.READY}], target.replica)
        self.plan.doze += [w for w in kept if w.state == S.READY]
        self.plan.drain += [w for w in workers if w.state in ALIVE | RESTS and w not in kept]

    def plan_trial(self, target: Wanted, serving: Wanted, workers: Sequence[WorkerRecord]) -> None:
        """One worker of the wanted version beside all of the one that serves, and not before these are READY."""
        others = [w for w in workers if w.name.generation != target.generation]
        replace(self, losses=self.old_losses).plan_model(serving, serving, others)
        canary = [w for w in workers if w.name.generation == target.generation]
        ready = {w.name.index for w in others if w.name.generation == serving.generation and w.state == S.READY}
        if canary or len(ready) >= serving.replica:
            self.plan_model(target.scaled(1), target.scaled(1), canary)

    def plan_model(self, target: Wanted, last: Wanted, workers: Sequence[WorkerRecord]) -> None:
        """One model with all its workers; `last` is the version that was READY last, or the wanted one itself."""
        current = [w for w in workers if w.name.generation == target.generation and w.state not in (S.GONE, S.LOST)]
        old = [w for w in workers if w.name.generation != target.generation and w.state in ALIVE]
        self.plan.drain += [w for w in workers if w.name.generation != target.generation and w.state in RESTS]
        kept, surplus = _keep([w for w in current if w.node not in self.leaving], target.replica)
        self.plan.drain += surplus
        kept = self._roused(target, kept)
        moving, moved = _move([w for w in current if w.node in self.leaving], kept, target.replica)
        self.plan.drain += moved
        already_started = len(self.plan.start)
        refused = self._start_missing(target, {w.name.index for w in kept})
        # As many old workers stay as the new ones do not replace yet.
        lacking = max(target.replica - len({w.name.index for w in (*kept, *moving) if w.state == S.READY}), 0)
        for worker in _oldest_last(old, last.generation)[: max(len(old) - lacking, 0)]:
            self.plan.drain.append(worker)
            old.remove(worker)
        if last.generation != target.generation and not self.hold:
            self._go_on(last, _to_go_on(last, lacking, old))
        # One at a time: the others serve until its successor does.
        is_under_way = (
            any(w.state in LEAVES for w in workers)
            or any(w.state != S.READY for w in kept)
            or any(start.name.uid == target.uid for start in self.plan.start[already_started:])
        )
        if refused is not None and old and not is_under_way:
            self._give_way(target, refused, _oldest_last(old, last.generation)[0], workers)

    def _roused(self, target: Wanted, kept: Sequence[WorkerRecord]) -> list[WorkerRecord]:
        """These without those that rest and cannot be roused where they are, since there is room elsewhere only."""
        staying = []
        for worker in kept:
            demand = demand_of(target, worker.name.index, self.peaks)
            if worker.state not in RESTS:
                staying.append(worker)
            # Told now, it might hear of it before it hears that it is to doze.
            elif worker.report.phase not in ("nodding", "dozing"):
                staying.append(worker)
            elif self.hold:
                self.plan.waiting[target.uid] = Waiting(self.hold)
                staying.append(worker)
            elif worker.state == S.NODDING or self._may_return(worker, demand):
                self.plan.rouse.append(worker)
                self.room.give_back(worker.node, worker.claim)
                self.room.claim_more(worker.node, worker.whole_claim or worker.claim)
                staying.append(worker)
            elif isinstance(no_room := self.room.place(demand), NoRoom):
                self._let_wait(target, no_room)
                staying.append(worker)
            else:
                self.plan.drain.append(worker)
        return staying

    def _may_return(self, worker: WorkerRecord, demand: Demand) -> bool:
        """Whether there is room where it rests: its process sees the cards that it had, and no others."""
        whole = worker.whole_claim or worker.claim
        if not whole.cards:
            return self.room.fits_without(demand, worker.node, [worker.claim])
        return self.room.has_back(worker.node, worker.claim, whole)

    def _start_missing(self, target: Wanted, covered: Collection[int]) -> int | None:
        """Starts what is wanted and does not run. Returns the first index for which there is no room."""
        refused = None
        for index in range(target.replica):
            if index in covered:
                continue
            loss = self.losses.get((target.uid, index), NO_LOSS)
            if self.hold:
                self.plan.waiting[target.uid] = Waiting(self.hold)
            elif loss.not_before > self.now:
                self.plan.waiting[target.uid] = Waiting(loss.story())
            elif refused is None:
                no_room = self._start(target, index, "lost" if loss.count else "wanted")
                if no_room is not None:
                    self._let_wait(target, no_room)
                # Nothing gives way to it as long as there may be room.
                if no_room is not None and not no_room.is_early:
                    refused = index
        return refused

    def _let_wait(self, target: Wanted, no_room: NoRoom) -> None:
        self.plan.waiting[target.uid] = Waiting(str(no_room), "" if no_room.is_early else DoesNotFit.code())
        if (node := self.kept_nodes.get(target.uid)) is not None:
            self.room.close(node)

    def _go_on(self, last: Wanted, indices: Sequence[int]) -> None:
        """Starts workers of the last READY version again, where the wanted one is not READY yet."""
        for index in indices:
            if self.old_losses.get((last.uid, index), NO_LOSS).not_before > self.now:
                continue
            if self._start(last, index, "until the new version is READY") is not None:
                return

    def _give_way(self, target: Wanted, index: int, worker: WorkerRecord, workers: Sequence[WorkerRecord]) -> None:
        """Drains an old worker for a new one that has no room beside it, where it fits then; where several alike are on
        that node, the others may have to follow."""
        if self.losses.get((target.uid, index), NO_LOSS).count >= LOSSES_TO_GIVE_WAY:
            return
        alike = [w.claim for w in workers if (w.node, w.claim) == (worker.node, worker.claim) and w.state in WORKS]
        if self.room.fits_without(demand_of(target, index, self.peaks), worker.node, alike):
            self.plan.drain.append(worker)

    def _start(self, wanted: Wanted, index: int, why: str) -> NoRoom | None:
        placement = self.room.place(demand_of(wanted, index, self.peaks))
        if isinstance(placement, NoRoom):
            return placement
        name = WorkerName(wanted.uid, wanted.generation, index, self.new_suffix())
        self.plan.start.append(Start(name, wanted, placement, why))
        self.room.take(wanted.uid, placement)
        return None


def _keep(current: Sequence[WorkerRecord], replica: int) -> tuple[list[WorkerRecord], list[WorkerRecord]]:
    """One worker per index below `replica`, the most advanced one; the others are surplus."""
    best: dict[int, WorkerRecord] = {}
    surplus = []
    for worker in sorted(current, key=_rank):
        if worker.state in LEAVES:
            continue
        if worker.name.index < replica and worker.name.index not in best:
            best[worker.name.index] = worker
        else:
            surplus.append(worker)
    return list(best.values()), surplus


def _move(
    leaving: Sequence[WorkerRecord], kept: Sequence[WorkerRecord], replica: int
) -> tuple[list[WorkerRecord], list[WorkerRecord]]:
    """Of the workers on nodes that drain: those that serve until another is READY in their place, and those that go."""
    replaced = {worker.name.index for worker in kept if worker.state == S.READY}
    waiting = {index for index in range(replica) if index not in replaced}
    present = [worker for worker in leaving if worker.state not in LEAVES]
    staying = [worker for worker in present if worker.state in SERVES and worker.name.index in waiting]
    return staying, [worker for worker in present if worker not in staying]


def _rank(worker: WorkerRecord) -> tuple[int, float]:
    is_preferred = worker.state in PREFERENCE
    return PREFERENCE.index(worker.state) if is_preferred else len(PREFERENCE), worker.since


def _oldest_last(workers: Sequence[WorkerRecord], proven: int) -> list[WorkerRecord]:
    """Workers that serve go last; before them those of the generation that was READY once."""
    return sorted(workers, key=lambda w: (w.state == S.READY, w.name.generation == proven, -w.name.index))


def _to_go_on(last: Wanted, lacking: int, old: Sequence[WorkerRecord]) -> list[int]:
    """The indices of the last READY version to start again, so that it serves what the present one does not yet."""
    indices = {w.name.index for w in old if w.name.generation == last.generation}
    others = sum(w.name.generation != last.generation and w.state in SERVES for w in old)
    missing = [index for index in range(last.replica) if index not in indices]
    return missing[: max(min(lacking, last.replica) - len(indices) - others, 0)]


def is_at_rest(target: Wanted, last: Wanted, workers: Sequence[WorkerRecord], nodes: Mapping[str, Node]) -> bool:
    """Whether there is nothing to plan for a model until something changes about it: each replica has its worker of the
    wanted version, on a node that does not drain, and no other is left."""
    if last.generation != target.generation or len(workers) != target.replica:
        return False
    if any(worker.node in nodes and nodes[worker.node].draining for worker in workers):
        return False
    indices = {w.name.index for w in workers if w.state in ALIVE and w.name.generation == target.generation}
    return len(indices) == target.replica and max(indices) < target.replica


def is_settled(wanted: Mapping[str, Wanted], workers: Sequence[WorkerRecord]) -> bool:
    """Exactly what is wanted runs, and nothing else does."""
    expected = {(uid, target.generation, index) for uid, target in wanted.items() for index in range(target.replica)}
    live = [w for w in workers if w.state not in ENDED]
    running = [(w.name.uid, w.name.generation, w.name.index) for w in live]
    return len(running) == len(expected) and set(running) == expected and all(w.state == S.READY for w in live)
