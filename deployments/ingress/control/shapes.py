"""How models, replicas, nodes and events look to the clients of Xinference, OpenAI and Infinity; from values alone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from typing_extensions import TypedDict

from cluster.catalog.catalog import Catalog
from cluster.catalog.entry import Entry, Source, xinference_size
from cluster.control.lifecycle import ALIVE, HOLDS_CLAIM, RESTS, SERVES
from cluster.keys import Key
from cluster.routes import ModelRoutes
from cluster.settings import Settings
from cluster.status import Claim, Event, ModelStatus, Node, WorkerState, WorkerStatus
from cluster.value import JsonObject
from cluster.weights.locate import CachedModel
from cluster.weights.removal import Disk
from deployments import model_types
from deployments.ingress.control.card_shapes import CardRow, Replicas, card_rows
from deployments.ingress.routing import RouteTable
from deployments.ingress.serving import ONGOING
from deployments.ingress.xinference import xinference_type

# ---------------------------------------------------------------------------------------- a model and its replicas

#: Xinference's words for the state of a model.
INSTANCE_STATES = {
    "WAITING": "CREATING",
    "LOADING": "CREATING",
    "READY": "READY",
    "DEGRADED": "UPDATING",
    "FAILED": "ERROR",
    # Their requests are answered.
    "DOZING": "READY",
    "ASLEEP": "READY",
}
#: Xinference's words for what a launch is doing.
STAGES = {"pending": "pending", "downloading": "downloading", "loading": "loading", "ready": "launching"}
#: Infinity's words for what a model can do.
CAPABILITIES = {
    "embed": "embed",
    "embed_tokens": "embed",
    "rerank": "rerank",
    "classify": "classify",
    "embed_image": "image_embed",
    "embed_audio": "audio_embed",
}

#: What a model says of itself that Xinference calls an ability, by the name of the fact.
ABILITIES_BY_FACT = {"takes_tools": "tools", "reasons": "reasoning", "sees": "vision"}


def abilities_in(facts: JsonObject) -> list[str]:
    """What only a loaded model knows that it can besides."""
    return [ability for fact, ability in ABILITIES_BY_FACT.items() if facts.get(fact)]


#: Whose models they are, to clients of OpenAI: what Xinference says.
OWNER = "xinference"


class OpenAiModel(TypedDict):
    id: str
    object: str
    created: int
    owned_by: str


class InfinityStats(TypedDict):
    queue_fraction: float
    queue_absolute: int
    results_pending: int
    batch_size: int


class InfinityModel(OpenAiModel):
    backend: str
    capabilities: list[str]
    stats: InfinityStats


def openai_row(model: ModelRoutes, owner: str) -> OpenAiModel:
    return {"id": model.uid, "object": "model", "created": model.launched.created, "owned_by": owner}


def model_row(model: ModelRoutes) -> JsonObject:
    """What OpenAI's and Xinference's clients read of a model."""
    return {**xinference_row(model), **openai_row(model, OWNER)}


def xinference_row(model: ModelRoutes) -> JsonObject:
    """What Xinference says of a model, and then what the model says of itself."""
    launched = model.launched
    word = xinference_type(launched.type, model.abilities)
    # Its command line prints both of every language model.
    size = xinference_size(launched.size)
    language = {"model_lang": list(launched.languages), "model_size_in_billions": size} if word == "LLM" else {}
    return {
        "model_type": word,
        # The same in our word, which our own client reads.
        "cluster_type": launched.type,
        "address": launched.address,
        "accelerators": [str(card) for card in launched.cards],
        "model_name": launched.name,
        "model_engine": launched.engine,
        "model_format": launched.format,
        "model_family": launched.family,
        "model_hub": launched.hub,
        "model_revision": launched.revision,
        "quantization": launched.quantization,
        "language": list(launched.languages),
        "max_tokens": launched.max_tokens,
        "dimensions": launched.dimensions,
        "model_ability": [*model.abilities, *abilities_in(model.facts.listed)],
        "controlnet": launched.controlnet,
        "replica": launched.replica,
        **({} if launched.bounds is None else {"scale": dict(launched.bounds)}),
        **({"canary": {"percent": 100 * model.canary_share}} if model.canary_share else {}),
        **language,
        **model.facts.listed,
    }


def infinity_row(model: ModelRoutes, table: RouteTable, settings: Settings) -> InfinityModel:
    workers = [route.worker for route in model.workers]
    sent = sum(table.in_flight.get(worker, 0) for worker in workers)
    # A worker tells with every answer how much it holds; with no answer under way that number is out of date.
    held = sum(table.queued.get(worker, 0) for worker in workers if table.in_flight.get(worker))
    limit = sum(route.limit or ONGOING for route in model.workers)
    return {
        **openai_row(model, "infinity"),
        "backend": model.launched.engine,
        "capabilities": list(dict.fromkeys(CAPABILITIES[can] for can in model.abilities if can in CAPABILITIES)),
        "stats": {
            "queue_fraction": min(1.0, max(sent, held) / limit),
            "queue_absolute": held,
            "results_pending": sent,
            # Batches are filled by tokens; this is how many of the longest inputs fit.
            "batch_size": max(1, settings.batch_tokens // model.max_tokens) if model.max_tokens else 1,
        },
    }


class ReplicaRow(TypedDict):
    replica_id: int
    replica_model_uid: str
    replica_uid: str
    worker_address: str
    model_address: str
    accelerators: list[str]
    gpu_idx: list[int]
    status: str
    created_ts: int
    error_message: str | None


class InstanceRow(TypedDict):
    model_name: str
    model_uid: str
    model_version: str | None
    model_ability: list[str]
    replica: int
    status: str
    instance_created_ts: int
    n_worker: int
    replica_statuses: list[ReplicaRow]


def instance_row(status: ModelStatus) -> InstanceRow:
    wanted = status.wanted
    return {
        "model_name": wanted.entry.name,
        "model_uid": status.uid,
        "model_version": wanted.source.revision,
        "model_ability": list(wanted.abilities),
        "replica": status.replica,
        "status": INSTANCE_STATES[status.state],
        "instance_created_ts": int(status.created),
        "n_worker": 1,
        "replica_statuses": [replica_row(status, worker) for worker in status.workers],
    }


def replica_state(state: WorkerState) -> str:
    """Xinference's word for it. Only states that are known to serve are called READY."""
    if state in SERVES:
        return "READY"
    if state in ALIVE | RESTS:
        return "CREATING"
    return "TERMINATING" if state in HOLDS_CLAIM else "ERROR"


def replica_row(status: ModelStatus, worker: WorkerStatus) -> ReplicaRow:
    return {
        "replica_id": worker.index,
        "replica_model_uid": f"{status.uid}-rep{worker.index}",
        "replica_uid": worker.id,
        "worker_address": worker.node,
        "model_address": worker.address,
        "accelerators": [str(card) for card in worker.cards],
        "gpu_idx": list(worker.cards),
        "status": replica_state(worker.state),
        "created_ts": int(status.created),
        "error_message": worker.reason or None,
    }


class ReplicaProgress(TypedDict):
    replica_id: int
    replica_model_uid: str
    progress: float
    stage: str
    info: str
    updated_at: float
    download_files: list[JsonObject]


class LaunchProgress(TypedDict):
    progress: float
    stage: str
    download_files: list[JsonObject]
    replicas: list[ReplicaProgress]


def progress_body(status: ModelStatus) -> LaunchProgress:
    rows: list[ReplicaProgress] = [
        {
            "replica_id": worker.index,
            "replica_model_uid": f"{status.uid}-rep{worker.index}",
            "progress": worker.progress,
            "stage": STAGES.get(worker.stage, "launching"),
            "info": worker.reason,
            "updated_at": time.time(),
            "download_files": list(worker.files),
        }
        for worker in status.workers
    ]
    files = [file for worker in status.workers for file in worker.files]
    stage = STAGES.get(status.stage, "launching")
    return {"progress": status.progress, "stage": stage, "download_files": files, "replicas": rows}


# ------------------------------------------------------------------------------------------------ what can be launched


class EngineVariant(TypedDict):
    model_name: str
    model_format: str
    quantization: str
    #: The same for Xinference's command line, which lists each of them, and reads a size whether there is one or not.
    quantizations: list[str]
    model_size_in_billions: int | str | None
    model_hub: str


class CachedRow(TypedDict):
    model_name: str
    model_type: str | None
    model_hub: str
    model_version: str | None
    path: str
    real_path: str
    size_bytes: int
    complete: bool
    actor_ip_address: str
    #: The models that are launched with them, as far as the caller may know of them.
    used_by: list[str]


def engines_body(catalog: Catalog, type: str, name: str, settings: Settings) -> dict[str, list[EngineVariant] | str]:
    """By engine the variants of the model that it can load, or the reason why it cannot."""
    entry = catalog.find(name, type)
    needs = entry.facts.get("needs")
    body: dict[str, list[EngineVariant] | str] = {}
    for family in model_types(settings.plugins)[entry.type].families_of(entry).values():
        lacks = f"needs {needs}" if needs else family.missing(settings)
        variants = [_variant(entry, variant) for s in entry.sources if family.reads(s) for variant in s.variants()]
        body = {**{engine: lacks or variants for engine in family.engines}, **body}
    return body


def _variant(entry: Entry, source: Source) -> EngineVariant:
    return {
        "model_name": entry.name,
        "model_format": source.format,
        "quantization": source.quantizations[0],
        "quantizations": list(source.quantizations),
        "model_size_in_billions": xinference_size(source.size),
        "model_hub": source.hub,
    }


def cached_rows(
    catalog: Catalog, disks: Sequence[Disk], users: Mapping[tuple[str, str], Sequence[str]]
) -> list[CachedRow]:
    """The weights on the nodes' disks, by the catalogue's names where it knows them. `users` are the models that are
    launched with them, by hub and id."""
    entries = [entry for type in catalog.types() for entry in catalog.of_type(type)]
    owners = {id: entry for entry in entries for source in entry.sources for id in source.ids()}
    return [
        _cached_row(stored.model, owners.get(stored.model.id), disk.ip, users)
        for disk in disks
        for stored in disk.models
    ]


def _cached_row(
    model: CachedModel, entry: Entry | None, ip: str, users: Mapping[tuple[str, str], Sequence[str]]
) -> CachedRow:
    return {
        "model_name": entry.name if entry else model.id,
        "model_type": entry.type if entry else None,
        "model_hub": model.hub,
        "model_version": model.revision,
        "path": str(model.path),
        "real_path": str(model.path),
        "size_bytes": model.size_bytes,
        "complete": model.complete,
        "actor_ip_address": ip,
        "used_by": list(users.get((model.hub, model.id), ())),
    }


# ----------------------------------------------------------------------------------------------- the cluster itself


class EventRow(TypedDict):
    event_type: str
    event_ts: int
    event_content: str


class PastEvent(EventRow):
    #: To ask for older ones with.
    id: int
    #: None where it happened to the cluster itself.
    model_uid: str | None


class NodeRow(TypedDict):
    name: str
    id: str
    state: str
    version: str
    labels: dict[str, str]
    node_type: str
    ip_address: str
    cpu_count: float
    cpu_claimed: float
    mem_total: int
    mem_claimed: int
    gpu_count: int
    gpu_claimed: float
    gpu_vram_total: int
    cards: list[CardRow]
    workers: int
    disk_free: int | None


class CpuLoad(TypedDict):
    total: float
    memory_total: int
    memory_claimed: int


class CardLoad(TypedDict):
    mem_total: int | None
    mem_used: int | None


def event_row(event: Event) -> EventRow:
    return {"event_type": event.level, "event_ts": int(event.ts), "event_content": event.text}


def past_event(event: Event) -> PastEvent:
    return {**event_row(event), "id": event.id, "model_uid": event.uid or None}


def node_row(
    node: Node,
    claim: Claim,
    workers: int,
    free_bytes: int | None,
    replicas: Replicas | None = None,
    key: Key | None = None,
) -> NodeRow:
    return {
        "name": node.name or node.ip,
        "id": node.id,
        "state": node.state,
        "version": node.version,
        "labels": dict(node.labels),
        "node_type": "Supervisor" if node.is_head else "Worker",
        "ip_address": node.ip,
        "cpu_count": node.cpus,
        "cpu_claimed": claim.cpus,
        "mem_total": node.memory_bytes,
        "mem_claimed": claim.memory_bytes,
        "gpu_count": node.gpus,
        "gpu_claimed": claim.gpus,
        "gpu_vram_total": sum(node.size_of(card) or 0 for card in range(node.gpus)),
        "cards": card_rows(node, claim, replicas, key),
        "workers": workers,
        # The disk that wanted models and events are written to is the head's.
        "disk_free": free_bytes if node.is_head else None,
    }


def load_row(node: Node, claim: Claim) -> dict[str, CpuLoad | CardLoad]:
    cpu: CpuLoad = {"total": node.cpus, "memory_total": node.memory_bytes, "memory_claimed": claim.memory_bytes}
    cards: dict[str, CpuLoad | CardLoad] = {
        f"gpu-{card['number']}": {"mem_total": card["total"], "mem_used": card["used"]}
        for card in card_rows(node, claim)
    }
    return {"cpu": cpu, **cards}
