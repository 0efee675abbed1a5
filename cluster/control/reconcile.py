"""Compares what is wanted with what runs and says what to do; computing the plan does nothing.

Order is part of the plan: route out, drain, then kill; warm, then route in. A new generation starts beside the old one
where there is room, and takes its place one by one where there is not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cluster.control.lifecycle import ALIVE, ENDED, HOLDS_CLAIM, LEAVES, PREFERENCE, SERVES, WorkerRecord
from cluster.control.placement import NoRoom, Placement, Taken, demand_of, place
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
    #: Nothing more will happen to these: kill the process if there is one and drop the record.
    forget: list[WorkerRecord] = field(default_factory=list)
    waiting: dict[str, Waiting] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.start or self.drain or self.forget)


@dataclass(frozen=True)
class Loss:
    """How often an index of a model was lost lately, and when it may be started again."""

    count: int
    not_before: float

    def again(self, now: float, longest_s: float) -> Loss:
        return Loss(self.count + 1, now + min(longest_s, 2.0 ** min(self.count, 30)))


NO_LOSS = Loss(0, float("-inf"))


def reconcile(
    wanted: Mapping[str, Wanted],
    workers: Sequence[WorkerRecord],
    nodes: Sequence[Node],
    *,
    now: float,
    new_suffix: Callable[[], str],
    losses: Mapping[tuple[str, int], Loss] | None = None,
    hold: str = "",
    memory_fraction: float = 1.0,
    last_ready: Mapping[str, Wanted] | None = None,
    old_losses: Mapping[tuple[str, int], Loss] | None = None,
    untouched: Collection[str] = (),
) -> FleetPlan:
    """The difference between what is wanted and what runs.

    `hold` says why nothing may be started now. `last_ready` holds each model as it was wanted when it last was READY:
    until the present version is READY, as many workers of that one are kept running as the present one lacks;
    `old_losses` are the losses of those. Workers of the models in `untouched` are left as they are.
    """
    plan = FleetPlan()
    losses, last_ready, old_losses = losses or {}, last_ready or {}, old_losses or {}
    taken = [Taken(w.name.uid, w.node, w.claim) for w in workers if w.state in HOLDS_CLAIM]

    for worker in workers:
        target = wanted.get(worker.name.uid)
        is_current = target is not None and worker.name.generation == target.generation
        if worker.state in (S.GONE, S.LOST) or (worker.state == S.FAILED and not is_current):
            plan.forget.append(worker)
        elif worker.name.uid in untouched:
            continue
        elif target is None and worker.state in ALIVE:
            plan.drain.append(worker)

    for uid, target in wanted.items():
        if uid in untouched:
            continue
        of_uid = [w for w in workers if w.name.uid == uid]
        current = [w for w in of_uid if w.name.generation == target.generation and w.state not in (S.GONE, S.LOST)]
        old = [w for w in of_uid if w.name.generation != target.generation and w.state in ALIVE]
        kept, surplus = _keep(current, target.replica)
        plan.drain += surplus

        covered = {w.name.index for w in kept}
        refused = None
        for index in range(target.replica):
            if index in covered:
                continue
            loss = losses.get((uid, index), NO_LOSS)
            if hold:
                plan.waiting[uid] = Waiting(hold)
            elif loss.not_before > now:
                plan.waiting[uid] = Waiting(f"lost {loss.count} times, started again in {loss.not_before - now:.0f} s")
            elif refused is not None:
                continue
            else:
                placement = place(demand_of(target, index), nodes, taken, memory_fraction=memory_fraction)
                if isinstance(placement, NoRoom):
                    refused = (index, placement)
                    plan.waiting[uid] = Waiting(str(placement), DoesNotFit.code())
                    continue
                name = WorkerName(uid, target.generation, index, new_suffix())
                plan.start.append(Start(name, target, placement, "lost" if loss.count else "wanted"))
                taken.append(Taken(uid, placement.node, placement.claim))

        ready = sum(w.state == S.READY for w in kept)
        # As many old workers stay as the new ones do not replace yet.
        lacking = max(target.replica - ready, 0)
        last = last_ready.get(uid, target)
        for worker in _oldest_last(old, last.generation)[: max(len(old) - lacking, 0)]:
            plan.drain.append(worker)
            old.remove(worker)
        if last.generation != target.generation and not hold:
            for index in _to_go_on(last, lacking, old):
                if old_losses.get((uid, index), NO_LOSS).not_before > now:
                    continue
                placement = place(demand_of(last, index), nodes, taken, memory_fraction=memory_fraction)
                if isinstance(placement, NoRoom):
                    break
                name = WorkerName(uid, last.generation, index, new_suffix())
                plan.start.append(Start(name, last, placement, "until the new version is READY"))
                taken.append(Taken(uid, placement.node, placement.claim))
        tried = 0 if refused is None else losses.get((uid, refused[0]), NO_LOSS).count
        is_draining = any(w.state in LEAVES for w in of_uid)
        if refused is not None and old and not is_draining and tried < LOSSES_TO_GIVE_WAY:
            index, _ = refused
            giving_way = _oldest_last(old, last.generation)[0]
            without = [
                t for t in taken if not (t.uid == uid and t.node == giving_way.node and t.claim == giving_way.claim)
            ]
            fits = place(demand_of(target, index), nodes, without, memory_fraction=memory_fraction)
            if isinstance(fits, Placement):
                plan.drain.append(giving_way)
    return plan


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


def is_settled(wanted: Mapping[str, Wanted], workers: Sequence[WorkerRecord]) -> bool:
    """Exactly what is wanted runs, and nothing else does."""
    expected = {(uid, target.generation, index) for uid, target in wanted.items() for index in range(target.replica)}
    live = [w for w in workers if w.state not in ENDED]
    placement = [(w.name.uid, w.name.generation, w.name.index) for w in live]
    return len(placement) == len(expected) and set(placement) == expected and all(w.state == S.READY for w in live)
