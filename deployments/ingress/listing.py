"""What serves now, as OpenAI's, Xinference's and Infinity's clients read it; from the routing table alone."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from cluster import errors, keys
from cluster.names import cut
from cluster.routes import ModelRoutes
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.settings import Settings
from deployments.ingress.dispatch import Dispatcher
from deployments.ingress.middleware import Json
from deployments.ingress.routing import RouteTable
from deployments.ingress.serving import ONGOING

OWNER = "xinference"

#: Infinity's words for what a model can do.
CAPABILITIES = {
    "embed": "embed",
    "embed_tokens": "embed",
    "rerank": "rerank",
    "classify": "classify",
    "embed_image": "image_embed",
    "embed_audio": "audio_embed",
}


def router(dispatcher: Dispatcher, supervisor: SupervisorClient, settings: Settings) -> APIRouter:
    routes = APIRouter(tags=["models"])

    def serving(request: Request) -> list[ModelRoutes]:
        return [model for model in dispatcher.table.visible(request.state.key).values() if model.workers]

    @routes.get("/v1/models")
    async def list_models(request: Request) -> Json:
        rows = [{**model.description, **_openai(model, OWNER)} for model in serving(request)]
        return Json({"object": "list", "data": rows})

    @routes.get("/models")
    async def list_for_infinity(request: Request) -> Json:
        rows = [_infinity(model, dispatcher.table, settings) for model in serving(request)]
        return Json({"object": "list", "data": rows})

    @routes.get("/v1/models/instances")
    async def instances(request: Request, model_name: str | None = None, model_uid: str | None = None) -> Json:
        statuses = keys.visible(request.state.key, await supervisor.call_patiently("all_statuses"))
        rows = [_instance(status) for status in statuses]
        by_name = [row for row in rows if model_name in (None, "", row["model_name"])]
        return Json([row for row in by_name if model_uid in (None, "", row["model_uid"])])

    @routes.get("/v1/models/{uid}")
    async def describe(uid: str, request: Request) -> Json:
        keys.check_model(request.state.key, uid)
        model = dispatcher.table.models.get(uid)
        if model is None:
            raise errors.UnknownUid(f"Model not found in the model list, uid: {cut(uid)}", "model_uid")
        return Json(model.description)

    return routes


def _openai(model: ModelRoutes, owner: str) -> dict[str, Any]:
    return {"id": model.uid, "object": "model", "created": 0, "owned_by": owner}


def _infinity(model: ModelRoutes, table: RouteTable, settings: Settings) -> dict[str, Any]:
    workers = [route.worker for route in model.workers]
    sent = sum(table.in_flight.get(worker, 0) for worker in workers)
    # A worker says what it holds with every answer: old news when none is on its way.
    held = sum(table.queued.get(worker, 0) for worker in workers if table.in_flight.get(worker))
    room = sum(route.limit or ONGOING for route in model.workers)
    longest = model.description.get("max_tokens")
    return {
        **_openai(model, "infinity"),
        "backend": str(model.description.get("model_engine", "")),
        "capabilities": list(dict.fromkeys(CAPABILITIES[can] for can in model.abilities if can in CAPABILITIES)),
        "stats": {
            "queue_fraction": min(1.0, max(sent, held) / room),
            "queue_absolute": held,
            "results_pending": sent,
            # Batches are filled by tokens; this is how many of the longest inputs fit.
            "batch_size": max(1, settings.batch_tokens // longest) if isinstance(longest, int) and longest else 1,
        },
    }


#: Xinference's words for the state of a model.
INSTANCE_STATES = {
    "WAITING": "CREATING",
    "LOADING": "CREATING",
    "READY": "READY",
    "DEGRADED": "UPDATING",
    "FAILED": "ERROR",
    "STOPPING": "TERMINATING",
}


def _instance(status: Any) -> dict[str, Any]:
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


#: Xinference's words for the state of a replica.
REPLICA_STATES = {
    "STARTING": "CREATING",
    "LOADING": "CREATING",
    "FAILED": "ERROR",
    "LOST": "ERROR",
    "DRAINING": "TERMINATING",
}


def replica_row(status: Any, worker: Any) -> dict[str, Any]:
    return {
        "replica_id": worker.index,
        "replica_model_uid": f"{status.uid}-rep{worker.index}",
        "replica_uid": worker.id,
        "worker_address": worker.node,
        "model_address": worker.address,
        "accelerators": [str(card) for card in worker.cards],
        "gpu_idx": list(worker.cards),
        "status": REPLICA_STATES.get(worker.state, "READY"),
        "created_ts": int(status.created),
        "error_message": worker.reason or None,
    }
