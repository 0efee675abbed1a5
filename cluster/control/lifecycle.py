"""The states of one worker and the events that move it, as one table.

    STARTING ──started──▶ LOADING ──loaded──▶ READY ──silent──▶ SUSPECT
       │                     │                 │ ▲                │ │
       │                     │                 │ └────answered────┘ │
       ├── died, expired ────┴──── died ───────┼── died, expired ───┴──▶ LOST ──▶ (forgotten, started again)
       ├── failed ───────────┴──▶ FAILED       │ drain
       │                            │          ▼
       └── drain (killed at once) ──┴─▶ GONE ◀─ DRAINING

    READY ──doze──▶ NODDING ──dozed──▶ DOZING ──rouse──▶ STARTING     (both: died, drain ──▶ GONE)

`step` is the only way to change a state and the fleet its only caller. A pair that is not in the table is a bug and
raises with the worker's story.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from cluster.settings import Settings
from cluster.status import Claim, Report, WorkerName, WorkerState

S = WorkerState


class WorkerEvent(StrEnum):
    STARTED = "started"  # it answered for the first time, or reported progress
    LOADED = "loaded"  # warmed up, may be sent work
    FAILED = "failed"  # it said that loading can never succeed
    DIED = "died"  # its process is gone
    SILENT = "silent"  # it did not answer in time: unknown is not dead
    ANSWERED = "answered"
    DRAIN = "drain"  # no longer wanted
    DRAINED = "drained"
    EXPIRED = "expired"  # it stayed in its state beyond the deadline
    DOZE = "doze"  # not needed for now
    NODS = "nods"  # it finishes what it has before it dozes
    DOZED = "dozed"  # it has dropped its model
    ROUSE = "rouse"  # needed again


E = WorkerEvent

TRANSITIONS: Mapping[tuple[WorkerState, WorkerEvent], WorkerState] = {
    (S.STARTING, E.STARTED): S.LOADING,
    (S.STARTING, E.LOADED): S.READY,
    (S.STARTING, E.FAILED): S.FAILED,
    (S.STARTING, E.DIED): S.LOST,
    (S.STARTING, E.EXPIRED): S.LOST,
    (S.STARTING, E.SILENT): S.STARTING,
    (S.STARTING, E.ANSWERED): S.STARTING,
    (S.STARTING, E.DRAIN): S.GONE,
    (S.STARTING, E.DRAINED): S.GONE,
    # It has not heard yet that it was roused.
    (S.STARTING, E.NODS): S.STARTING,
    (S.STARTING, E.DOZED): S.STARTING,
    (S.LOADING, E.STARTED): S.LOADING,
    (S.LOADING, E.LOADED): S.READY,
    (S.LOADING, E.FAILED): S.FAILED,
    (S.LOADING, E.DIED): S.LOST,
    (S.LOADING, E.EXPIRED): S.LOST,
    (S.LOADING, E.SILENT): S.LOADING,
    (S.LOADING, E.ANSWERED): S.LOADING,
    (S.LOADING, E.DRAIN): S.GONE,
    (S.READY, E.LOADED): S.READY,
    (S.READY, E.ANSWERED): S.READY,
    (S.READY, E.SILENT): S.SUSPECT,
    (S.READY, E.FAILED): S.LOST,
    (S.READY, E.DIED): S.LOST,
    (S.READY, E.DRAIN): S.DRAINING,
    (S.READY, E.DRAINED): S.GONE,
    (S.READY, E.DOZE): S.NODDING,
    # An earlier supervisor has told it to.
    (S.READY, E.NODS): S.NODDING,
    (S.READY, E.DOZED): S.DOZING,
    (S.SUSPECT, E.NODS): S.NODDING,
    (S.SUSPECT, E.DOZED): S.DOZING,
    # It has been told to load, and has not heard yet that it is to doze.
    (S.NODDING, E.STARTED): S.NODDING,
    (S.NODDING, E.LOADED): S.NODDING,
    (S.NODDING, E.NODS): S.NODDING,
    (S.NODDING, E.DOZED): S.DOZING,
    (S.NODDING, E.ROUSE): S.STARTING,
    (S.NODDING, E.ANSWERED): S.NODDING,
    (S.NODDING, E.SILENT): S.NODDING,
    (S.NODDING, E.DRAIN): S.DRAINING,
    # What cannot drop its model, or dies meanwhile, is no loss: it rests all the same.
    (S.NODDING, E.DRAINED): S.GONE,
    (S.NODDING, E.FAILED): S.GONE,
    (S.NODDING, E.DIED): S.GONE,
    (S.NODDING, E.EXPIRED): S.GONE,
    (S.DOZING, E.NODS): S.DOZING,
    (S.DOZING, E.DOZED): S.DOZING,
    (S.DOZING, E.STARTED): S.LOADING,
    (S.DOZING, E.LOADED): S.READY,
    (S.DOZING, E.FAILED): S.GONE,
    (S.DOZING, E.ROUSE): S.STARTING,
    (S.DOZING, E.ANSWERED): S.DOZING,
    (S.DOZING, E.SILENT): S.DOZING,
    (S.DOZING, E.DRAIN): S.GONE,
    (S.DOZING, E.DRAINED): S.GONE,
    (S.DOZING, E.DIED): S.GONE,
    # Its control thread may answer while its model hangs, so a report does not clear it; a probe does.
    (S.SUSPECT, E.LOADED): S.SUSPECT,
    (S.SUSPECT, E.ANSWERED): S.READY,
    (S.SUSPECT, E.SILENT): S.SUSPECT,
    (S.SUSPECT, E.FAILED): S.LOST,
    (S.SUSPECT, E.DIED): S.LOST,
    (S.SUSPECT, E.EXPIRED): S.LOST,
    (S.SUSPECT, E.DRAIN): S.DRAINING,
    (S.DRAINING, E.LOADED): S.DRAINING,
    (S.DRAINING, E.ANSWERED): S.DRAINING,
    (S.DRAINING, E.SILENT): S.DRAINING,
    (S.DRAINING, E.FAILED): S.GONE,
    (S.DRAINING, E.DRAIN): S.DRAINING,
    (S.DRAINING, E.DRAINED): S.GONE,
    (S.DRAINING, E.NODS): S.DRAINING,
    (S.DRAINING, E.DOZED): S.GONE,
    (S.DRAINING, E.DIED): S.GONE,
    (S.DRAINING, E.EXPIRED): S.GONE,
    (S.FAILED, E.DRAIN): S.GONE,
    (S.FAILED, E.DIED): S.FAILED,
    (S.FAILED, E.EXPIRED): S.LOST,
    (S.FAILED, E.SILENT): S.FAILED,
    (S.FAILED, E.ANSWERED): S.FAILED,
    # One death is reported by every call that was under way.
    (S.LOST, E.DIED): S.LOST,
    (S.LOST, E.SILENT): S.LOST,
    (S.LOST, E.ANSWERED): S.LOST,
    (S.LOST, E.DRAIN): S.GONE,
}

# Every state is in exactly one of these five.
#: Not READY yet.
LOADS = frozenset({S.STARTING, S.LOADING})
#: Counts as serving: a suspect gets work as long as no other worker is left.
SERVES = frozenset({S.READY, S.SUSPECT})
#: Its process stays without its model, or will once it has finished what it has.
RESTS = frozenset({S.NODDING, S.DOZING})
#: Finishes what it has.
LEAVES = frozenset({S.DRAINING})
#: Nothing more will happen to it; its process, if any, is to be killed.
ENDED = frozenset({S.FAILED, S.LOST, S.GONE})

#: Takes up its place among the wanted replicas: nothing else is started for its index.
ALIVE = LOADS | SERVES
#: Will serve or did, and claims for that what it was placed with.
WORKS = ALIVE | LEAVES
#: Its process may exist and its claim counts.
HOLDS_CLAIM = WORKS | RESTS
#: Shares the cores of its node; a suspect may hang, and the others do not wait for it.
COMPUTES = LOADS | {S.READY}
#: Can tell what it counts.
COUNTS = LEAVES | {S.READY}
#: Of several workers for one index the first of these is kept.
PREFERENCE = (S.READY, S.SUSPECT, S.LOADING, S.STARTING, S.NODDING, S.DOZING, S.FAILED)


def limit_s(state: WorkerState, settings: Settings) -> float | None:
    """How long a worker may stay in a state without moving; None where that is no fault."""
    limits = {
        S.STARTING: settings.start_timeout_s,
        S.LOADING: settings.load_stall_s,
        S.SUSPECT: settings.probe_timeout_s,
        S.DRAINING: settings.drain_s,
        S.NODDING: settings.drain_s,
    }
    return limits.get(state)


class InvalidTransition(AssertionError):
    """An event that cannot happen in that state."""


@dataclass(frozen=True)
class WorkerRecord:
    """What the control plane knows of one worker."""

    name: WorkerName
    state: WorkerState
    node: str
    claim: Claim
    #: Clock of the supervisor when it entered the state or last moved within it.
    since: float
    ready_since: float | None = None
    #: When its process was started, by the wall clock.
    created: float = 0.0
    report: Report = Report()
    reason: str = ""
    story: tuple[str, ...] = ()
    #: While it dozes: what it claims as soon as it is roused.
    whole_claim: Claim | None = None

    def __str__(self) -> str:
        return str(self.name)


def step(worker: WorkerRecord, event: WorkerEvent, now: float, reason: str = "") -> WorkerRecord:
    """The worker after the event; `since` moves when the state does."""
    entry = f"{worker.state} {event}" + (f" ({reason})" if reason else "")
    after = TRANSITIONS.get((worker.state, event))
    if after is None:
        raise InvalidTransition(f"{worker}: no way from {entry}; story: {'; '.join(worker.story) or 'none'}")
    if after == worker.state:
        return worker
    claim, whole_claim = _claims_in(after, worker)
    return replace(
        worker,
        state=after,
        claim=claim,
        whole_claim=whole_claim,
        since=now,
        ready_since=_ready_since(worker, after, now),
        reason=reason,
        story=(*worker.story[-19:], f"{entry} -> {after}"),
    )


def _ready_since(worker: WorkerRecord, after: WorkerState, now: float) -> float | None:
    if after == S.READY and worker.ready_since is None:
        return now
    return None if after == S.DOZING else worker.ready_since


def _claims_in(state: WorkerState, worker: WorkerRecord) -> tuple[Claim, Claim | None]:
    """What it claims in that state, and what it will claim when it is roused. Ray keeps the cores for as long as the
    process lives; cards are given back."""
    if state == S.DOZING:
        kept = min(worker.report.memory_bytes, worker.claim.memory_bytes)
        return replace(worker.claim, memory_bytes=kept, cards=(), card_bytes=0), worker.whole_claim or worker.claim
    if worker.whole_claim is not None and state in WORKS:
        return worker.whole_claim, None
    return worker.claim, worker.whole_claim
