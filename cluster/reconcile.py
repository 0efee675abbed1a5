"""Compares wishes with what runs and says what to do; computing the plan does nothing.

Order is part of the plan: route out, drain, then kill; warm, then route in. A new generation starts beside the old one
where there is room, and takes its place one by one where there is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cluster.errors import DoesNotFit
from cluster.lifecycle import ALIVE, ENDED, HOLDS_CLAIM, Worker
from cluster.placement import NoRoom, Placement, Taken, demand_of, place
from cluster.spec import Node, Wanted, WorkerName, WorkerState

S = WorkerState

#: A worker that served this long has paid for its past losses.
GOOD_RUN_S = 300.0


@dataclass(frozen=True)
class Start:
    name: WorkerName
    placement: Placement
    why: str


class Waiting(NamedTuple):
    """Why a model that is short of workers is not given more now; `code` is the error a caller would see."""

    reason: str
    code: str = ""


@dataclass
class Plan:
    start: list[Start] = field(default_factory=list)
    #: Stop politely: READY workers finish what they have, others are killed by their `drain` transition.
    drain: list[Worker] = field(default_factory=list)
    #: Nothing more will happen to these: kill the process if there is one and drop the record.
    forget: list[Worker] = field(default_factory=list)
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
    workers: Sequence[Worker],
    nodes: Sequence[Node],
    *,
    now: float,
    new_suffix: Callable[[], str],
    losses: Mapping[tuple[str, int], Loss] | None = None,
    hold: str = "",
    memory_fraction: float = 1.0,
) -> Plan:
    """The difference between what is wanted and what runs. `hold` says why nothing may be started now."""
    plan = Plan()
    losses = losses or {}
    taken = [Taken(w.name.uid, w.node, w.claim) for w in workers if w.state in HOLDS_CLAIM]

    for worker in workers:
        wish = wanted.get(worker.name.uid)
        is_current = wish is not None and worker.name.generation == wish.generation
        if worker.state in (S.GONE, S.LOST) or (worker.state == S.FAILED and not is_current):
            plan.forget.append(worker)
        elif wish is None and worker.state in ALIVE:
            plan.drain.append(worker)

    for uid, wish in wanted.items():
        mine = [w for w in workers if w.name.uid == uid]
        current = [w for w in mine if w.name.generation == wish.generation and w.state not in (S.GONE, S.LOST)]
        old = [w for w in mine if w.name.generation != wish.generation and w.state in ALIVE]
        kept, surplus = _keep(current, wish.replica)
        plan.drain += surplus

        covered = {w.name.index for w in kept}
        refused = None
        for index in range(wish.replica):
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
                found = place(demand_of(wish, index), nodes, taken, memory_fraction=memory_fraction)
                if isinstance(found, NoRoom):
                    refused = (index, found)
                    plan.waiting[uid] = Waiting(str(found), DoesNotFit.code())
                    continue
                name = WorkerName(uid, wish.generation, index, new_suffix())
                plan.start.append(Start(name, found, "lost" if loss.count else "wanted"))
                taken.append(Taken(uid, found.node, found.claim))

        ready = sum(w.state == S.READY for w in kept)
        # Of the old ones, as many stay as the new ones do not replace yet.
        spare_old = len(old) - max(wish.replica - ready, 0)
        for worker in _oldest_last(old)[: max(spare_old, 0)]:
            plan.drain.append(worker)
            old.remove(worker)
        if refused is not None and old and not any(w.state == S.DRAINING for w in mine):
            index, _ = refused
            giving_way = _oldest_last(old)[0]
            without = [
                t for t in taken if not (t.uid == uid and t.node == giving_way.node and t.claim == giving_way.claim)
            ]
            fits = place(demand_of(wish, index), nodes, without, memory_fraction=memory_fraction)
            if isinstance(fits, Placement):
                plan.drain.append(giving_way)
    return plan


def _keep(current: Sequence[Worker], replica: int) -> tuple[list[Worker], list[Worker]]:
    """One worker per index below `replica`, the most advanced one; the rest is surplus."""
    best: dict[int, Worker] = {}
    surplus = []
    for worker in sorted(current, key=_rank):
        if worker.state == S.DRAINING:
            continue
        if worker.name.index < replica and worker.name.index not in best:
            best[worker.name.index] = worker
        else:
            surplus.append(worker)
    return list(best.values()), surplus


_RANK = {S.READY: 0, S.SUSPECT: 1, S.LOADING: 2, S.STARTING: 3, S.FAILED: 4}


def _rank(worker: Worker) -> tuple[int, float]:
    return _RANK.get(worker.state, 9), worker.since


def _oldest_last(workers: Sequence[Worker]) -> list[Worker]:
    """Those that serve go last."""
    return sorted(workers, key=lambda w: (w.state == S.READY, -w.name.index))


def is_settled(wanted: Mapping[str, Wanted], workers: Sequence[Worker]) -> bool:
    """Exactly what is wanted runs, and nothing else does."""
    expected = {(uid, wish.generation, index) for uid, wish in wanted.items() for index in range(wish.replica)}
    live = [w for w in workers if w.state not in ENDED]
    found = [(w.name.uid, w.name.generation, w.name.index) for w in live]
    return len(found) == len(expected) and set(found) == expected and all(w.state == S.READY for w in live)
