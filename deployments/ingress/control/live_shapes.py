"""Models and nodes as the web page is told of them; from values alone. The page's own types are made of these."""

from __future__ import annotations

from collections.abc import Mapping

from typing_extensions import TypedDict

from cluster.keys import Key
from cluster.launch import TARGET_QUEUE_S
from cluster.routes import ModelRoutes
from cluster.status import Claim, ModelStatus, Node, VersionFigures, WorkerStatus
from cluster.value import JsonObject
from deployments.ingress.control.card_shapes import CardRow, card_rows
from deployments.ingress.control.shapes import abilities_in


class LiveWorker(TypedDict):
    id: str
    index: int
    generation: int
    state: str
    node: str
    pid: int
    cards: list[int]
    claim_bytes: int
    card_bytes: int
    stage: str
    progress: float
    done_bytes: int
    total_bytes: int
    files: list[JsonObject]
    reason: str
    restarts: int
    created: float


class LiveScale(TypedDict):
    """Between how many replicas a model follows its load."""

    min: int
    max: int
    #: Where requests wait for longer, it gets more.
    target_queue_s: float
    #: What was last changed and why, or what keeps it from changing.
    why: str


class LiveVersion(TypedDict):
    generation: int
    #: The percentage of the requests that it gets.
    percent: float
    requests: int
    failed: int
    #: What half of them took at most, and 95 of 100; none where none was timed.
    median_s: float | None
    slowest_s: float | None


class LiveCanary(TypedDict):
    """A new version that is on trial beside the old one."""

    new: LiveVersion
    old: LiveVersion
    #: How it stands, and what happens next.
    why: str
    next: str


class LiveModel(TypedDict):
    uid: str
    type: str
    name: str
    abilities: list[str]
    state: str
    reason: str
    error_code: str
    replica: int
    #: None where the number does not follow the load.
    scale: LiveScale | None
    #: None where no new version is on trial, or nobody knows how it does.
    canary: LiveCanary | None
    ready: int
    restarts: int
    generation: int
    stage: str
    progress: float
    created: float
    version: int
    log_tail: list[str]
    workers: list[LiveWorker]


class LiveNode(TypedDict):
    id: str
    name: str
    ip: str
    state: str
    is_head: bool
    version: str
    cpus: float
    memory_bytes: int
    memory_claimed: int
    gpus: int
    gpus_claimed: float
    card_bytes: int | None
    card_claimed: int
    #: Each by itself.
    cards: list[CardRow]
    workers: int
    #: What keeps its memory from being claimed.
    room_reason: str


class LiveChange(TypedDict):
    """One message of the stream: all there is after (re)connecting, then what is different."""

    whole: bool
    models: list[LiveModel]
    gone: list[str]
    #: All of them, where something about one has changed.
    nodes: list[LiveNode] | None
    #: Whether the supervisor answers; models serve without it.
    has_control: bool
    #: Of the server: a page that was open during an upgrade is an old one.
    server: str


def live_worker(worker: WorkerStatus) -> LiveWorker:
    return {
        "id": worker.id,
        "index": worker.index,
        "generation": worker.generation,
        "state": worker.state,
        "node": worker.node,
        "pid": worker.pid,
        "cards": list(worker.cards),
        "claim_bytes": worker.claim_bytes,
        "card_bytes": worker.card_bytes,
        "stage": worker.stage,
        "progress": worker.progress,
        "done_bytes": worker.done_bytes,
        "total_bytes": worker.total_bytes,
        "files": list(worker.files),
        "reason": worker.reason,
        "restarts": worker.restarts,
        "created": worker.created,
    }


def live_scale(status: ModelStatus) -> LiveScale | None:
    scale = status.scale
    if scale is None:
        return None
    return {"min": scale.min, "max": scale.max, "target_queue_s": scale.target_queue_s, "why": scale.why}


def live_canary(status: ModelStatus) -> LiveCanary | None:
    canary = status.canary
    if canary is None:
        return None
    return {
        "new": _live_version(canary.generation, canary.percent, canary.new),
        "old": _live_version(canary.old_generation, 100 - canary.percent, canary.old),
        "why": canary.why,
        "next": canary.next,
    }


def _live_version(generation: int, percent: float, figures: VersionFigures) -> LiveVersion:
    return {
        "generation": generation,
        "percent": percent,
        "requests": figures.requests,
        "failed": figures.failed,
        "median_s": figures.median_s,
        "slowest_s": figures.slowest_s,
    }


def _scale_of(bounds: Mapping[str, float] | None) -> LiveScale | None:
    """As a model was launched."""
    if bounds is None:
        return None
    target_queue_s = float(bounds.get("target_queue_s", TARGET_QUEUE_S))
    return {"min": int(bounds["min"]), "max": int(bounds["max"]), "target_queue_s": target_queue_s, "why": ""}


def live_model(status: ModelStatus) -> LiveModel:
    return {
        "uid": status.uid,
        "type": status.wanted.entry.type,
        "name": status.wanted.entry.name,
        "abilities": [*status.wanted.abilities, *abilities_in(status.about)],
        "state": status.state,
        "reason": status.reason,
        "error_code": status.error_code,
        "replica": status.replica,
        "scale": live_scale(status),
        "canary": live_canary(status),
        "ready": status.ready,
        "restarts": status.restarts,
        "generation": status.generation,
        "stage": status.stage,
        "progress": status.progress,
        "created": status.created,
        "version": status.version,
        "log_tail": list(status.log_tail),
        "workers": [live_worker(worker) for worker in status.workers],
    }


def routed_model(model: ModelRoutes) -> LiveModel:
    """As far as an ingress knows it without the supervisor."""
    return {
        "uid": model.uid,
        "type": model.launched.type,
        "name": model.launched.name,
        "abilities": [*model.abilities, *abilities_in(model.facts.listed)],
        "state": model.state,
        "reason": model.reason,
        "error_code": "",
        "replica": model.launched.replica,
        "scale": _scale_of(model.launched.bounds),
        "canary": None,
        "ready": len(model.workers),
        "restarts": 0,
        "generation": 0,
        "stage": "",
        "progress": 0.0,
        "created": float(model.launched.created),
        "version": 0,
        "log_tail": [],
        "workers": [],
    }


def live_node(node: Node, claim: Claim, workers: int, key: Key | None = None) -> LiveNode:
    return {
        "id": node.id,
        "name": node.name or node.ip,
        "ip": node.ip,
        "state": node.state,
        "is_head": node.is_head,
        "version": node.version,
        "cpus": node.cpus,
        "memory_bytes": node.memory_bytes,
        "memory_claimed": claim.memory_bytes,
        "gpus": node.gpus,
        "gpus_claimed": claim.gpus,
        "card_bytes": node.card_bytes,
        "card_claimed": claim.card_bytes,
        "cards": card_rows(node, claim, key=key),
        "workers": workers,
        "room_reason": node.room_reason,
    }
