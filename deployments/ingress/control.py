"""Routes that change or watch the cluster; each is one call to the supervisor."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from cluster import errors, keys
from cluster.catalog.catalog import Catalog
from cluster.catalog.registrations import parse_registration, to_registration
from cluster.launch import LaunchSpec, Wanted
from cluster.names import quoted
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.settings import Settings
from cluster.status import Event, ModelState, ModelStatus
from cluster.weights.inventory import asking_once
from cluster.weights.locate import cached
from deployments import Room, catalog_with, model_types, plan_of, resolve
from deployments.ingress.listing import replica_row
from deployments.ingress.middleware import Json, checked, json_body
from deployments.ingress.routing import RouteTable

R = TypeVar("R")

VERSION = version("model-cluster")
#: One long poll on the supervisor; waiting longer is many of them.
POLL_S = 25.0
#: How long a launch may be waited for when the caller sets no limit.
LAUNCH_WAIT_S = 3600.0
#: How long an answer waits for this ingress's own table to agree with it.
ROUTED_S = 2.0

#: Launches that are looked up at once, and those that wait for it.
MOST_LOOKUPS = 256
_lookups = ThreadPoolExecutor(4, "lookup")
_places = threading.BoundedSemaphore(MOST_LOOKUPS)

#: NaN passes every comparison and ends the event loop whose clock it reaches.
Seconds = Annotated[float, Query(allow_inf_nan=False)]


class Declared(BaseModel):
    model_config = ConfigDict(extra="forbid")

    models: list[LaunchSpec]
    prune: bool = True
    dry_run: bool = False


class NewKey(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    scopes: list[str] = ["list", "infer"]
    models: list[str] | None = None


class Replicas(BaseModel):
    replica: int = Field(strict=True)


class MoreReplicas(BaseModel):
    replica: int = Field(default=1, ge=1, strict=True)


class Registration(BaseModel):
    model: str
    worker_ip: str | None = None
    persist: bool = True


async def only_own_models(request: Request) -> None:
    """A key that is for some models watches and changes no others."""
    uid = request.path_params.get("uid")
    if uid is not None:
        keys.check_model(request.state.key, uid)


def _refuse_limited(request: Request) -> None:
    key = request.state.key
    if key is not None and key.models is not None:
        raise errors.NotPermitted(
            f"The key {key.name!r} is for {', '.join(key.models)} only, and this is for all models."
        )


async def _catalog(supervisor: SupervisorClient, settings: Settings) -> Catalog:
    return catalog_with(await supervisor.call_patiently("registered"), settings)


# ------------------------------------------------------------------------------------------------ launch


def launching(supervisor: SupervisorClient, settings: Settings) -> APIRouter:
    routes = APIRouter(tags=["launch"], dependencies=[Depends(only_own_models)])

    @routes.post("/v1/models")
    async def launch(
        request: Request, wait_ready: bool = True, timeout: Seconds | None = None, dry_run: bool = False
    ) -> Json:
        body = await json_body(request)
        if not body.get("model_name"):
            raise errors.BadRequest("Invalid input. Please specify the `model_name` field.", "model_name")
        spec: LaunchSpec = checked(LaunchSpec, body, errors.BadOption)
        with asking_once():
            wanted = await _resolved(spec, supervisor, settings)
            keys.check_model(request.state.key, wanted.uid)
            if dry_run:
                return Json(await _fit(wanted, supervisor, settings))
        status = await supervisor.call_patiently("launch", wanted, spec.model_uid is not None)
        if wait_ready:
            status = await _until_ready(supervisor, status, timeout or LAUNCH_WAIT_S)
            await _until_routed(request, lambda table: _is_routed(table, status.uid))
        return Json({"model_uid": status.uid, "generation": status.generation})

    @routes.delete("/v1/models/{uid}")
    async def terminate(uid: str, request: Request) -> Json:
        await supervisor.call("terminate", uid)
        await _until_routed(request, lambda table: uid not in table.models)
        return Json(None)

    @routes.post("/v1/models/{uid}/cancel")
    async def cancel(uid: str, request: Request) -> Json:
        await supervisor.call("cancel", uid)
        await _until_routed(request, lambda table: uid not in table.models)
        return Json(None)

    @routes.post("/v1/models/{uid}/scale")
    async def scale(uid: str, request: Request) -> Json:
        asked: Replicas = checked(Replicas, await json_body(request))
        status = await supervisor.call_patiently("scale", uid, asked.replica)
        return Json({"model_uid": uid, "replica": status.replica})

    @routes.post("/v1/models/{uid}/replicas")
    async def add_replica(uid: str, request: Request) -> Json:
        body = await json_body(request) if await request.body() else {}
        asked: MoreReplicas = checked(MoreReplicas, body)
        for name in ("replica_config", "model_engine", "n_gpu"):
            if body.get(name) is not None:
                raise errors.BadRequest(f"{name} cannot be given here: replicas of one model are all alike.", name)
        status: ModelStatus = await supervisor.call_patiently("status", uid)
        await supervisor.call("scale", uid, status.replica + asked.replica)
        rows = [
            {"replica_id": index, "replica_model_uid": f"{uid}-rep{index}", "worker_address": ""}
            for index in range(status.replica, status.replica + asked.replica)
        ]
        return Json(rows[0] if len(rows) == 1 else {"replica": len(rows), "replicas": rows})

    @routes.delete("/v1/models/{uid}/replicas/{replica_id}")
    async def remove_replica(uid: str, replica_id: int) -> Json:
        """One replica less. Replicas are numbered from 0 without gaps, so it is the last number that goes."""
        status: ModelStatus = await supervisor.call_patiently("status", uid)
        if not 0 <= replica_id < status.replica:
            known = f"{uid} has replicas 0 to {status.replica - 1}"
            raise errors.BadRequest(f"{known}, not {replica_id}.", "replica_id")
        await supervisor.call("scale", uid, status.replica - 1)
        return Json({"remaining_replicas": status.replica - 1})

    @routes.post("/v1/models/apply")
    async def apply(request: Request) -> Json:
        _refuse_limited(request)
        asked: Declared = checked(Declared, await json_body(request))
        catalog = await _catalog(supervisor, settings)
        declared = [await _apart(resolve, spec, catalog, settings) for spec in asked.models]
        names = [wanted.uid for wanted in declared]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise errors.BadRequest(f"{twice} is declared twice; give one of them another model_uid.", "models")
        changes = await supervisor.call_patiently("apply", declared, asked.prune, asked.dry_run)
        rows = [
            {
                "uid": change.uid,
                "change": change.change,
                "before": declaration(change.before),
                "after": declaration(change.after),
                "fields": list(change.fields),
            }
            for change in changes
        ]
        return Json({"changes": rows})

    @routes.get("/v1/models/export")
    async def export(request: Request) -> Json:
        _refuse_limited(request)
        statuses = await supervisor.call_patiently("all_statuses")
        return Json({"models": [declaration(status.wanted) for status in statuses]})

    @routes.post("/v1/model_registrations/{type}")
    async def register(type: str, request: Request) -> Json:
        _refuse_limited(request)
        asked: Registration = checked(Registration, await json_body(request))
        types = model_types(settings.plugins)
        if type not in types:
            raise errors.BadRequest(
                f"There are no models of the type {quoted(type)}; there are {', '.join(sorted(types))}."
            )
        entry = parse_registration(type, asked.model, family=next(iter(types[type].families)))
        try:
            orjson.dumps(entry.facts)
        except orjson.JSONEncodeError as error:
            raise errors.InvalidBody(f"The registration cannot be kept: {error}.", "model") from None
        # Only to hear of a clash while somebody is there to read it.
        (await _catalog(supervisor, settings)).with_registered([entry])
        await supervisor.call("register", entry)
        return Json(None)

    @routes.delete("/v1/model_registrations/{type}/{name}")
    async def unregister(type: str, name: str, request: Request) -> Json:
        _refuse_limited(request)
        await supervisor.call("unregister", type, name)
        return Json(None)

    return routes


async def _resolved(spec: LaunchSpec, supervisor: SupervisorClient, settings: Settings) -> Wanted:
    catalog = await _catalog(supervisor, settings)
    # It has folders and files' headers looked at.
    return await _apart(resolve, spec, catalog, settings)


async def _apart(work: Callable[..., R], *arguments: Any) -> R:
    """In one of a few threads of its own: a folder that answers late holds up nobody who wants a picture encoded."""
    if not _places.acquire(blocking=False):
        raise errors.Overloaded("Too many launches are looked up at once; ask again.", retry_after_s=5.0)
    try:
        run = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(_lookups, run, work, *arguments)
    finally:
        _places.release()


async def _fit(wanted: Wanted, supervisor: SupervisorClient, settings: Settings) -> dict[str, Any]:
    """What a dry run answers."""
    reason = await supervisor.call_patiently("could_launch", wanted)
    plan = await _plan(wanted, supervisor, settings)
    fit = {"fits": not reason, "reason": reason, "claim_bytes": wanted.claim_bytes}
    return {**fit, "plan": plan} if plan else fit


async def _plan(wanted: Wanted, supervisor: SupervisorClient, settings: Settings) -> dict[str, Any] | None:
    """What it would take of the roomiest card, or node, that it could have to itself."""
    nodes = [node for node, _, _ in await supervisor.call_patiently("nodes")]
    is_auto = wanted.spec.n_gpu == "auto"
    cards = [node.card_bytes or 0 for node in nodes if (node.auto_gpus if is_auto else node.gpus)]
    on_gpu = wanted.spec.n_gpu is not None and (not is_auto or bool(cards))
    sizes = cards if on_gpu else [node.memory_bytes for node in nodes]
    room = Room(on_gpu, max(sizes, default=0) or None)
    return await _apart(plan_of, wanted, settings, room)


async def _until_ready(supervisor: SupervisorClient, status: ModelStatus, timeout_s: float) -> ModelStatus:
    """Waits with the caller; when he goes, the wish stays. A restart of the supervisor is only a pause."""
    deadline = time.monotonic() + timeout_s
    uid, generation = status.uid, status.generation
    while True:
        if status.generation != generation:
            raise errors.LaunchCancelled(f"The launch of {uid} was replaced by a newer one.")
        if status.state == ModelState.READY:
            return status
        if status.state == ModelState.FAILED:
            raise _failure(status)
        left = deadline - time.monotonic()
        if left <= 0:
            told = f"{uid} is not READY after {timeout_s:.0f} s ({status.stage})"
            raise errors.DeadlineExceeded(f"{told}; the launch goes on.")
        try:
            status = await supervisor.call_patiently("status", uid, status.version, min(left, POLL_S), patience_s=60.0)
        except errors.UnknownUid:
            raise errors.LaunchCancelled("Launch cancelled") from None


async def _until_routed(request: Request, is_so: Callable[[RouteTable], bool]) -> None:
    table: RouteTable = request.app.state.serving.dispatcher.table
    await _until_seen(lambda: is_so(table))


async def _until_seen(is_so: Callable[[], bool]) -> None:
    """What an ingress knows follows a change by milliseconds, and whoever made it asks the next thing at once."""
    deadline = time.monotonic() + ROUTED_S
    while not is_so() and time.monotonic() < deadline:
        await asyncio.sleep(0.002)


def _is_routed(table: RouteTable, uid: str) -> bool:
    model = table.models.get(uid)
    return model is not None and bool(model.workers)


def _failure(status: ModelStatus) -> errors.ClusterError:
    kind = errors.every_error().get(status.error_code, errors.LoadFailed)
    error = kind(status.reason)
    error.log_tail = status.log_tail
    return error


def declaration(wanted: Wanted | None) -> dict[str, Any] | None:
    """A wish as a line of models.yaml: what was asked, without what follows from it."""
    if wanted is None:
        return None
    fields = wanted.spec.model_dump(mode="json", exclude_defaults=True, exclude={"options"})
    if fields.get("model_uid") == wanted.entry.name:
        del fields["model_uid"]
    return {**fields, **wanted.spec.options}


# ------------------------------------------------------------------------------------------------ watch


def watching(supervisor: SupervisorClient, settings: Settings) -> APIRouter:
    routes = APIRouter(tags=["watch"], dependencies=[Depends(only_own_models)])
    started = time.monotonic()

    @routes.get("/v1/statuses")
    async def statuses(request: Request) -> Json:
        found = keys.visible(request.state.key, await supervisor.call_patiently("all_statuses"))
        return Json([_shown(status) for status in found])

    @routes.get("/v1/models/{uid}/status")
    async def status(uid: str, request: Request, version: int | None = None, wait: Seconds = 0.0) -> Json:
        wait = max(0.0, min(wait, 30.0))
        found: ModelStatus = await supervisor.call("status", uid, version, wait, timeout_s=wait + 10)
        if found.state == ModelState.READY:
            await _until_routed(request, lambda table: _is_routed(table, uid))
        return Json(_shown(found))

    @routes.get("/v1/models/{uid}/progress")
    async def progress(uid: str) -> Json:
        return Json(_progress(await supervisor.call_patiently("status", uid)))

    @routes.get("/v1/models/{uid}/events")
    async def events(uid: str) -> Json:
        return Json([_event(event) for event in await supervisor.call_patiently("events", uid)])

    @routes.get("/v1/models/{uid}/logs")
    async def logs(uid: str, lines: int = 200) -> Json:
        return Json({"lines": await supervisor.call_patiently("logs", uid, max(1, min(lines, 10_000)))})

    @routes.get("/v1/models/{uid}/replicas")
    async def replicas(uid: str) -> Json:
        found: ModelStatus = await supervisor.call_patiently("status", uid)
        return Json([replica_row(found, worker) for worker in found.workers])

    @routes.get("/v1/model_registrations/{type}")
    async def registrations(type: str, detailed: bool = False) -> Json:
        entries = (await _catalog(supervisor, settings)).of_type(type.lower())
        if detailed:
            return Json([{**to_registration(entry), "is_builtin": entry.builtin} for entry in entries])
        return Json([{"model_name": entry.name, "is_builtin": entry.builtin} for entry in entries])

    @routes.get("/v1/model_registrations/{type}/{name}")
    async def registration(type: str, name: str) -> Json:
        try:
            return Json(to_registration((await _catalog(supervisor, settings)).find(name, type)))
        except errors.UnknownModel:
            raise errors.UnknownModel(f"Model {name} not found", "model_name") from None

    @routes.get("/v1/engines/{name}")
    async def engines_of(name: str) -> Json:
        return Json(_engines(await _catalog(supervisor, settings), "", name, settings))

    @routes.get("/v1/engines/{type}/{name}")
    async def engines(type: str, name: str) -> Json:
        return Json(_engines(await _catalog(supervisor, settings), type, name, settings))

    @routes.get("/v1/cache/models")
    async def cache(model_name: str | None = None) -> Json:
        catalog = await _catalog(supervisor, settings)
        rows = await asyncio.to_thread(_cached, catalog, settings)
        return Json({"list": [row for row in rows if model_name in (None, "", row["model_name"])]})

    @routes.get("/v1/cluster/info")
    async def info(detailed: bool = False) -> Json:
        free = await supervisor.call_patiently("free_bytes")
        rows = [_node(*row) for row in await supervisor.call_patiently("nodes")]
        return Json([{**row, "disk_free": free if row["node_type"] == "Supervisor" else None} for row in rows])

    @routes.get("/v1/cluster/events")
    async def cluster_events() -> Json:
        """What happened to the cluster itself, and to no model of it."""
        return Json([_event(event) for event in await supervisor.call_patiently("events", "")])

    @routes.get("/v1/cluster/version")
    async def cluster_version() -> Json:
        return Json({"version": VERSION, "full-revisionid": None, "dirty": False, "error": None, "date": None})

    @routes.get("/v1/cluster/devices")
    async def devices() -> Json:
        return Json(max((node.gpus for node, _, _ in await supervisor.call_patiently("nodes")), default=0))

    @routes.get("/v1/workers")
    async def workers(request: Request) -> Json:
        statuses = keys.visible(request.state.key, await supervisor.call_patiently("all_statuses"))
        nodes = [node.ip for node, _, _ in await supervisor.call_patiently("nodes")]
        at = [(worker.node, status) for status in statuses for worker in status.workers]
        return Json(
            [{"work-ip": ip, "models": {s.uid: s.wanted.entry.name for where, s in at if where == ip}} for ip in nodes]
        )

    @routes.get("/v1/supervisor")
    async def where() -> Json:
        heads = [node.ip for node, _, _ in await supervisor.call_patiently("nodes") if node.is_head]
        return Json({"supervisor_ip": heads[0] if heads else ""})

    @routes.get("/status")
    async def cluster_status() -> Json:
        nodes = await supervisor.call_patiently("nodes")
        uptime = await supervisor.call_patiently("uptime")
        told = {node.ip: {"update_time": time.time(), "status": _load(node, claim)} for node, claim, _ in nodes}
        return Json({"uptime": int(max(uptime, time.monotonic() - started)), "workers": told})

    return routes


def _event(event: Event) -> dict[str, Any]:
    return {"event_type": event.level, "event_ts": int(event.ts), "event_content": event.text}


def _shown(status: ModelStatus) -> dict[str, Any]:
    """Environment variables hold tokens now and then; their names are enough."""
    shown = status.model_dump(mode="json")
    envs = shown["wanted"]["spec"].get("envs")
    if envs:
        shown["wanted"]["spec"]["envs"] = dict.fromkeys(envs, "***")
    return shown


#: Xinference's words for what a launch is doing.
STAGES = {"pending": "pending", "downloading": "downloading", "loading": "loading", "ready": "launching"}


def _progress(status: ModelStatus) -> dict[str, Any]:
    rows = [
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


def _engines(catalog: Catalog, type: str, name: str, settings: Settings) -> dict[str, Any]:
    entry = catalog.find(name, type)
    told: dict[str, Any] = {}
    for family_name, family in model_types(settings.plugins)[entry.type].families.items():
        if family_name != entry.family:
            continue
        for engine in family.engines:
            if entry.facts.get("needs"):
                told[engine] = f"needs {entry.facts['needs']}"
                continue
            told[engine] = [
                {
                    "model_name": entry.name,
                    "model_format": source.format,
                    "quantization": quantization,
                    "model_hub": source.hub,
                }
                for source in entry.sources
                for quantization in source.quantizations
            ]
    return told


def _cached(catalog: Catalog, settings: Settings) -> list[dict[str, Any]]:
    entries = [entry for type in catalog.types() for entry in catalog.of_type(type)]
    owners = {source.id: entry for entry in entries for source in entry.sources}
    rows = []
    for model in cached(settings.home):
        entry = owners.get(model.id)
        rows.append(
            {
                "model_name": entry.name if entry else model.id,
                "model_type": entry.type if entry else None,
                "model_hub": model.hub,
                "model_version": model.revision,
                "path": str(model.path),
                "real_path": str(model.path),
                "size_bytes": model.size_bytes,
                "complete": model.complete,
                "actor_ip_address": settings.host,
            }
        )
    return rows


def _node(node: Any, claim: Any, workers: int) -> dict[str, Any]:
    return {
        "node_type": "Supervisor" if node.is_head else "Worker",
        "ip_address": node.ip,
        "cpu_count": node.cpus,
        "cpu_claimed": claim.cpus,
        "mem_total": node.memory_bytes,
        "mem_claimed": claim.memory_bytes,
        "gpu_count": node.gpus,
        "gpu_claimed": claim.gpus,
        "gpu_vram_total": (node.card_bytes or 0) * node.gpus,
        "workers": workers,
    }


def _load(node: Any, claim: Any) -> dict[str, Any]:
    cpu = {"total": node.cpus, "memory_total": node.memory_bytes, "memory_claimed": claim.memory_bytes}
    cards = {f"gpu-{card}": {"mem_total": node.card_bytes} for card in range(node.gpus)}
    return {"cpu": cpu, **cards}


# -------------------------------------------------------------------------------------------- administration


def administration(supervisor: SupervisorClient, settings: Settings) -> APIRouter:
    # A key for some models that made others would be a key for all.
    routes = APIRouter(tags=["administration"], dependencies=[Depends(_refuse_limited)])

    @routes.post("/v1/keys")
    async def create_key(request: Request) -> Json:
        asked: NewKey = checked(NewKey, await json_body(request))
        key, text = await supervisor.call("create_key", asked.name, asked.scopes, asked.models)
        dispatcher = request.app.state.serving.dispatcher
        await _until_seen(lambda: key in dispatcher.keys)
        return Json({**key.shown(), "key": text})

    @routes.get("/v1/keys")
    async def list_keys() -> Json:
        return Json([key.shown() for key in await supervisor.call_patiently("all_keys")])

    @routes.delete("/v1/keys/{id}")
    async def revoke_key(id: str, request: Request) -> Json:
        await supervisor.call("revoke_key", id)
        dispatcher = request.app.state.serving.dispatcher
        await _until_seen(lambda: all(key.id != id for key in dispatcher.keys))
        return Json(None)

    return routes
