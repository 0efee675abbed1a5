"""What is observed: nodes, workers and how far they are, and the status of a model that follows from it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, get_args

from pydantic import Field

from cluster.cards import Card
from cluster.facts import SentFacts
from cluster.launch import Needs, Wanted
from cluster.value import JsonObject, Value


@dataclass(frozen=True)
class Node:
    """One machine as the control plane sees it."""

    id: str
    ip: str
    cpus: float
    memory_bytes: int
    gpus: int = 0
    #: Memory of one card; None when it is unknown, then cards are shared by fraction only.
    card_bytes: int | None = None
    is_head: bool = False
    #: Its workers are moved elsewhere, because it leaves or because somebody asked for that.
    draining: bool = False
    #: Somebody closed it: what runs on it stays, nothing new is placed there.
    cordoned: bool = False
    #: What people call it; its address where nobody gave it a name.
    name: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    #: Of this package, where the node says so.
    version: str = ""
    #: What is known of each, in the order of their numbers; less than there are where nobody says. How full they are is
    #: news of its own, and makes no other node of it.
    cards: tuple[Card, ...] = field(default=(), compare=False)
    #: It came a moment ago, and nobody knows yet what others have of its cards: nothing new is placed on these.
    is_unread: bool = field(default=False, compare=False)
    #: Cards that torch can use; None for all. Only these count where a launch does not ask for a GPU by number.
    usable_gpus: int | None = None

    @property
    def auto_gpus(self) -> int:
        return self.gpus if self.usable_gpus is None else min(self.gpus, self.usable_gpus)

    #: After its memory ran out: what is left for models now, and who holds the rest.
    room_bytes: int | None = None
    room_reason: str = ""

    def size_of(self, card: int) -> int | None:
        """Bytes of a card; of slices each has its own."""
        size = self.cards[card].total_bytes if card < len(self.cards) else None
        return size or self.card_bytes

    def foreign_bytes(self, card: int) -> int:
        """What others have of it."""
        return self.cards[card].foreign_bytes if card < len(self.cards) else 0

    @property
    def state(self) -> str:
        return "draining" if self.draining else "cordoned" if self.cordoned else "ready"


@dataclass(frozen=True)
class Claim:
    """What one worker takes from its node."""

    memory_bytes: int = 0
    #: Card number -> share of it; empty on CPU.
    cards: tuple[tuple[int, float], ...] = ()
    cpus: float = 0.0
    #: What it is expected to take of its cards, all together.
    card_bytes: int = 0
    #: What it takes at its largest has been measured by one like it, and need not be again.
    is_measured: bool = False

    @property
    def gpus(self) -> float:
        return sum(share for _, share in self.cards)


class WorkerState(StrEnum):
    STARTING = "STARTING"
    LOADING = "LOADING"
    READY = "READY"
    SUSPECT = "SUSPECT"
    DRAINING = "DRAINING"
    NODDING = "NODDING"
    DOZING = "DOZING"
    FAILED = "FAILED"
    LOST = "LOST"
    GONE = "GONE"


class ModelState(StrEnum):
    """Derived from the workers, never stored."""

    WAITING = "WAITING"
    LOADING = "LOADING"
    READY = "READY"
    DEGRADED = "DEGRADED"
    FAILED = "FAILED"
    #: Its processes have dropped the weights, and keep their libraries; whoever asks for it wakes it.
    DOZING = "DOZING"
    #: No process; whoever asks for it wakes it.
    ASLEEP = "ASLEEP"


#: A request has to wake it.
RESTING = frozenset({ModelState.DOZING, ModelState.ASLEEP})


@dataclass(frozen=True)
class WorkerName:
    """`worker:<uid>:<generation>:<index>-<suffix>`: all that adoption needs, in the actor's name."""

    uid: str
    generation: int
    index: int
    suffix: str

    def __str__(self) -> str:
        return f"worker:{self.uid}:{self.generation}:{self.index}-{self.suffix}"

    @classmethod
    def parse(cls, text: str) -> WorkerName | None:
        match = re.fullmatch(r"worker:([^:]+):(\d+):(\d+)-(\w+)", text)
        return cls(match[1], int(match[2]), int(match[3]), match[4]) if match else None


@dataclass(frozen=True)
class LoadProgress:
    """How far a load is; `fraction` counts the whole way to READY."""

    stage: str = "pending"
    fraction: float = 0.0
    done_bytes: int = 0
    total_bytes: int = 0
    files: tuple[JsonObject, ...] = ()


@dataclass(frozen=True)
class Memory:
    """Of a node, or of the container that it is, as one of its processes sees it."""

    total_bytes: int = 0
    available_bytes: int = 0
    #: What that process and its children hold.
    own_bytes: int = 0
    #: Processes that the kernel ended for want of memory, ever.
    oom_kills: int = 0
    #: Name, pid and bytes of the largest process of others; looked for when memory is short.
    largest: tuple[str, int, int] | None = None


@dataclass(frozen=True)
class Load:
    """What a worker has to do, averaged over a second."""

    #: Seconds that it takes to compute what waits, and what it computes at once.
    waiting_s: float = 0.0
    running_s: float = 0.0
    #: Requests that it has.
    requests: float = 0.0
    #: The part of what it can compute that is made use of.
    used: float = 0.0
    #: It refused requests, since they would have waited for too long.
    refuses: bool = False


#: How many of the last lines that it wrote a worker keeps.
LOG_LINES = 400


@dataclass(frozen=True)
class Report:
    """What a worker says of itself."""

    phase: Literal["created", "loading", "ready", "failed", "draining", "drained", "nodding", "dozing"] = "created"
    progress: LoadProgress = LoadProgress()
    error: Exception | None = None
    log_tail: tuple[str, ...] = ()
    pid: int = 0
    #: When its process was started, by the clock of its node.
    created: float = 0.0
    node_id: str = ""
    node_ip: str = ""
    #: Where processes of the same machine reach it without Ray; empty where they cannot.
    socket: str = ""
    cards: tuple[int, ...] = ()
    memory_bytes: int = 0
    #: The most that it took until it was READY; None where that was not measured.
    peak: Needs | None = None
    #: Whether that was with as much at once as requests can bring about.
    is_peak_full: bool = False
    memory: Memory = Memory()
    #: Of the last time, and how often it has loaded in this process.
    load_seconds: float = 0.0
    loads: int = 0
    facts: SentFacts = SentFacts()
    #: Why it does not compute, as it has found itself.
    trouble: str = ""
    #: It has had nothing to do for a moment.
    is_idle: bool = True
    #: How often it was given something to do after such a moment.
    spells: int = 0
    load: Load = Load()


class WorkerStatus(Value):
    id: str
    index: int
    generation: int
    state: WorkerState
    node: str = ""
    address: str = ""
    pid: int = 0
    cards: tuple[int, ...] = ()
    #: Main memory.
    claim_bytes: int = 0
    #: Of its cards.
    card_bytes: int = 0
    stage: str = ""
    progress: float = 0.0
    done_bytes: int = 0
    total_bytes: int = 0
    files: tuple[JsonObject, ...] = ()
    reason: str = ""
    error_code: str = ""
    #: How often the worker of this index was lost and replaced.
    restarts: int = 0
    #: When its process was started; seconds since 1970.
    created: float = 0.0


class ScaleStatus(Value):
    """How a model follows its load."""

    min: int
    max: int
    target_queue_s: float
    #: What was last changed and why, or what keeps it from changing.
    why: str = ""


class VersionFigures(Value):
    """What has come of the requests to one version of a model since another is on trial."""

    requests: int = 0
    failed: int = 0
    #: What half of them took at most, and 95 of 100; None where none was timed.
    median_s: float | None = None
    slowest_s: float | None = None


class CanaryStatus(Value):
    """How the trial of a new version stands."""

    generation: int
    #: The version that serves the other requests, and comes back where the new one is worse.
    old_generation: int
    percent: float
    why: str = ""
    #: What happens next, as a sentence.
    next: str = ""
    new: VersionFigures = VersionFigures()
    old: VersionFigures = VersionFigures()


class ScaleNumbers(Value):
    """How many replicas a model has and how much there is to do, for people and for other autoscalers."""

    min: int
    max: int
    #: None where the number does not follow the load.
    target_queue_s: float | None = None
    #: As many as are wanted now, and as many as serve.
    replica: int
    ready: int
    #: How long requests wait on average, how many there are, and how many replicas they would use entirely.
    queue_s: float = 0.0
    requests: float = 0.0
    used: float = 0.0
    why: str = ""


class ModelStatus(Value):
    """A model as it is now. `reason` says why it is not READY."""

    uid: str
    state: ModelState
    reason: str = ""
    error_code: str = ""
    log_tail: tuple[str, ...] = ()
    replica: int
    ready: int
    restarts: int = 0
    generation: int
    stage: str = ""
    progress: float = 0.0
    created: float = 0.0
    wanted: Wanted
    workers: tuple[WorkerStatus, ...] = ()
    #: What the loaded model says about itself.
    about: JsonObject = Field(default_factory=dict)
    #: How long waking it takes, as far as that is known.
    wake_s: float | None = None
    #: None where it has as many replicas as were asked for.
    scale: ScaleStatus | None = None
    #: None where no new version is on trial.
    canary: CanaryStatus | None = None
    version: int = 0


@dataclass(frozen=True)
class StatusNews:
    """What has changed in the statuses of all models."""

    version: int
    #: The version from which these are the differences; None where these are all statuses.
    since: int | None
    #: Each a pickled `ModelStatus`: most of them have been before, for another caller.
    rows: tuple[bytes, ...]
    gone: tuple[str, ...] = ()


#: The last is the worst.
EventLevel = Literal["INFO", "WARNING", "ERROR"]
EVENT_LEVELS: tuple[EventLevel, ...] = get_args(EventLevel)


class Event(Value):
    ts: float
    level: EventLevel
    #: Of a model; empty where it happened to the cluster itself.
    uid: str
    text: str
    #: Larger for what was written later; 0 where nobody asked for it.
    id: int = 0


class EventQuery(Value):
    """Which events of all models and of the cluster itself, the newest first."""

    limit: int = 100
    #: Only those that were written before the one of this id.
    before: int | None = None
    #: Only those of these models, and of the cluster itself if an empty uid is among them.
    uids: tuple[str, ...] | None = None
    #: Only those of these levels.
    levels: tuple[EventLevel, ...] = EVENT_LEVELS

    def takes(self, event: Event) -> bool:
        return (
            (self.before is None or event.id < self.before)
            and (self.uids is None or event.uid in self.uids)
            and event.level in self.levels
        )
