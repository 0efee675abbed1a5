"""Models that follow their load: what there is to do for each, and how many replicas it has from now on.

Pure but for `note`, which writes down what has changed.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.control.fleet import Fleet
from cluster.control.lifecycle import ALIVE, WorkerRecord
from cluster.control.records import Records
from cluster.control.scaling import Moment, Past, Scale, decide, moment_of
from cluster.errors import DoesNotFit
from cluster.launch import Wanted
from cluster.status import ScaleNumbers, ScaleStatus, WorkerState


@dataclass(frozen=True)
class Rescaled:
    uid: str
    before: int
    after: int
    why: str

    def __str__(self) -> str:
        return f"Scaled from {self.before} to {self.after}: {self.why}"


def follow(fleet: Fleet, now: float) -> list[Rescaled]:
    """Gives every model that follows its load as many replicas as it needs; says what has changed. Those that have
    nothing to do and no more replicas than they must are not looked at again before that changes."""
    changes = (_follow(fleet, uid, now) for uid in sorted(fleet.scales.watched))
    return [change for change in changes if change is not None]


def _follow(fleet: Fleet, uid: str, now: float) -> Rescaled | None:
    wanted, scales = fleet.wanted.get(uid), fleet.scales
    bounds = None if wanted is None else wanted.spec.bounds
    if wanted is None or bounds is None or uid in fleet.unreadable:
        scales.forget(uid)
        return None
    if fleet.resting.rests(uid):
        scales.watched.discard(uid)
        return scale_to(fleet, wanted, bounds.least, "it rests")
    moment, serving = _moment(fleet, wanted, now), _serving(fleet, wanted)
    past = scales.past.get(uid, Past())
    replica, why, scales.past[uid] = decide(wanted.replica, serving, bounds, moment, past, fleet.settings.scale_down_s)
    if wanted.replica <= bounds.least and not moment.requests:
        scales.watched.discard(uid)
        scales.past.pop(uid)
    return scale_to(fleet, wanted, replica, why)


def scale_to(fleet: Fleet, wanted: Wanted, replica: int, why: str) -> Rescaled | None:
    """What it is to have from now on, beside all that was asked for; None where it has that already."""
    if replica == wanted.replica:
        return None
    # Its losses are still its losses: this is no new launch.
    fleet.wanted[wanted.uid] = wanted.scaled(replica)
    fleet.workers.touch(wanted.uid)
    change = Rescaled(wanted.uid, wanted.replica, replica, why)
    fleet.scales.why[wanted.uid] = str(change)
    return change


def is_served(fleet: Fleet, wanted: Wanted) -> bool:
    """Whether a model that follows its load has as many workers as it must, and can only be short of others."""
    wanted = fleet.canaries.serving(wanted)
    holding = {worker.name.index for worker in _holding(fleet, wanted)}
    return wanted.spec.bounds is not None and len(holding) >= wanted.least


def extra_workers(fleet: Fleet, wanted: Wanted) -> list[WorkerRecord]:
    """Those that only a load has brought about."""
    serving = fleet.canaries.serving(wanted)
    if wanted.spec.bounds is None or serving.spec.bounds is None:
        return []
    least = max(wanted.least, serving.least)
    return [worker for worker in _holding(fleet, serving) if worker.name.index >= least]


def _holding(fleet: Fleet, wanted: Wanted) -> list[WorkerRecord]:
    """Its workers but those that go anyway."""
    workers = (worker for worker in fleet.workers.of(wanted.uid) if worker.state in ALIVE)
    return [w for w in workers if w.name.generation == wanted.generation and w.name.index < wanted.replica]


def give_back(fleet: Fleet, uid: str, now: float) -> Rescaled | None:
    """Its last replica goes, since a model has no room; it is not started again at once."""
    wanted = fleet.wanted[uid]
    fleet.scales.give_way(uid, now)
    replica = max((worker.name.index for worker in extra_workers(fleet, wanted)), default=wanted.replica)
    return scale_to(fleet, wanted, replica, "another model had no room")


def _moment(fleet: Fleet, wanted: Wanted, now: float) -> Moment:
    ready = [worker for worker in fleet.workers.of(wanted.uid) if worker.state == WorkerState.READY]
    return moment_of([worker.report.load for worker in ready], wanted.spec.request_limits, now)


def _serving(fleet: Fleet, wanted: Wanted) -> int:
    """While a new version takes the place of another, the replicas of both serve."""
    ready = sum(worker.state == WorkerState.READY for worker in fleet.workers.of(wanted.uid))
    return min(ready, wanted.replica)


def numbers_of(fleet: Fleet, wanted: Wanted, now: float) -> ScaleNumbers:
    moment, bounds = _moment(fleet, wanted, now), wanted.spec.bounds
    status = scale_status(fleet, wanted)
    return ScaleNumbers(
        min=wanted.replica if bounds is None else bounds.min,
        max=wanted.replica if bounds is None else bounds.max,
        target_queue_s=None if bounds is None else bounds.target_queue_s,
        replica=0 if fleet.resting.rests(wanted.uid) else wanted.replica,
        ready=_serving(fleet, wanted),
        queue_s=moment.queue_s,
        requests=moment.requests,
        used=moment.used,
        why="" if status is None else status.why,
    )


def scale_status(fleet: Fleet, wanted: Wanted) -> ScaleStatus | None:
    bounds = wanted.spec.bounds
    if bounds is None:
        return None
    why, waiting = fleet.scales.why.get(wanted.uid, ""), fleet.waiting.get(wanted.uid)
    if waiting is not None and waiting.code == DoesNotFit.code() and is_served(fleet, wanted):
        why = f"wants {wanted.replica}, {waiting.reason}"
    return ScaleStatus(min=bounds.min, max=bounds.max, target_queue_s=bounds.target_queue_s, why=why)


def note(records: Records, change: Rescaled) -> None:
    """Written down with the next tick. Lost before that, a model has another number for a while."""
    records.put_later("scale", change.uid, Scale(replica=change.after).model_dump(mode="json"))
    records.tell(change.uid, "INFO", str(change))
