"""How many replicas a model has, and which."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from cluster import errors, keys
from cluster.launch import BOUNDS
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.status import ModelState, ScaleNumbers
from deployments.ingress.bodies import Json, checked, json_body
from deployments.ingress.control.access import by_any_name
from deployments.ingress.control.shapes import ReplicaRow, replica_row
from deployments.ingress.control.waiting import LAUNCH_WAIT_S, Seconds, until_ready, until_routed
from deployments.ingress.openapi import described
from deployments.ingress.routing import RouteTable


class Replicas(BaseModel):
    replica: int | None = Field(default=None, strict=True, description="As many from now on, within the bounds.")
    min: int | None = Field(default=None, strict=True, ge=0, le=1000, description="As few at least; with 0 it sleeps.")
    max: int | None = Field(default=None, strict=True, ge=1, le=1000, description="As many at most, as its load needs.")
    target_queue_s: float | None = Field(
        default=None, gt=0, le=3600, description="Where requests wait for longer, in seconds, it gets more."
    )


class MoreReplicas(BaseModel):
    replica: int = Field(default=1, ge=1, strict=True)


class Restart(BaseModel):
    reason: str = Field(default="", max_length=200, description="For the events of the model.")


class Scaled(TypedDict):
    model_uid: str
    replica: int


class RestartedModel(TypedDict):
    model_uid: str
    generation: int
    state: ModelState


class AddedReplica(TypedDict):
    replica_id: int
    replica_model_uid: str
    worker_address: str


class AddedReplicas(TypedDict):
    replica: int
    replicas: list[AddedReplica]


class RemainingReplicas(TypedDict):
    remaining_replicas: int


def scaling(supervisor: SupervisorClient, table: RouteTable) -> APIRouter:
    routes = APIRouter(tags=["launch"], dependencies=[by_any_name(table)])

    @routes.post("/v1/models/{uid:path}/scale")
    @described("Change how many replicas a model has", Scaled, body=Replicas)
    async def scale(uid: str, request: Request) -> Json:
        """At least one of the fields. With other bounds the number becomes the nearest one within them."""
        body: Replicas = checked(Replicas, await json_body(request))
        changes = body.model_dump(exclude_none=True)
        bounds = {BOUNDS[name]: value for name, value in changes.items() if name in BOUNDS}
        if not changes:
            raise errors.BadRequest("Say what to change: replica, min, max or target_queue_s.", "replica")
        if body.replica == 0 and await _may_have_none(uid, body):
            if bounds:
                await supervisor.scale(uid, None, bounds)
            await supervisor.sleep(uid)
            return Json({"model_uid": uid, "replica": 0})
        status = await supervisor.scale(uid, body.replica, bounds)
        return Json({"model_uid": uid, "replica": status.replica})

    async def _may_have_none(uid: str, body: Replicas) -> bool:
        scale = (await supervisor.status(uid)).scale
        return body.min == 0 or (body.min is None and scale is not None and scale.min == 0)

    @routes.post("/v1/models/{uid:path}/restart")
    @described("Replace the processes of a model, under traffic", RestartedModel, body=Restart, needs_body=False)
    async def restart(uid: str, request: Request, wait_ready: bool = True, timeout: Seconds | None = None) -> Json:
        """A new process is READY before its predecessor ends, wherever both have room."""
        body: Restart = checked(Restart, await json_body(request) if await request.body() else {})
        key = keys.real(request.state.key)
        by = f"asked for with the key {key.name}" if key is not None else ""
        status = await supervisor.restart(uid, "; ".join(filter(None, (by, body.reason.strip()))))
        if wait_ready:
            status = await until_ready(supervisor, status, timeout or LAUNCH_WAIT_S)
            await until_routed(table, uid)
        return Json({"model_uid": uid, "generation": status.generation, "state": status.state})

    @routes.post("/v1/models/{uid:path}/replicas")
    @described("Add replicas to a model", AddedReplica | AddedReplicas, body=MoreReplicas, needs_body=False)
    async def add_replica(uid: str, request: Request) -> Json:
        fields = await json_body(request) if await request.body() else {}
        body: MoreReplicas = checked(MoreReplicas, fields)
        for name in ("replica_config", "model_engine", "n_gpu"):
            if fields.get(name) is not None:
                raise errors.BadRequest(f"{name} cannot be given here: replicas of one model are all alike.", name)
        status = await supervisor.status(uid)
        await supervisor.scale(uid, status.replica + body.replica)
        rows: list[AddedReplica] = [
            {"replica_id": index, "replica_model_uid": f"{uid}-rep{index}", "worker_address": ""}
            for index in range(status.replica, status.replica + body.replica)
        ]
        return Json(rows[0] if len(rows) == 1 else {"replica": len(rows), "replicas": rows})

    @routes.delete("/v1/models/{uid:path}/replicas/{replica_id}")
    @described("Remove a replica of a model", RemainingReplicas)
    async def remove_replica(uid: str, replica_id: int) -> Json:
        """One replica less. Replicas are numbered from 0 without gaps, so it is the last number that goes."""
        status = await supervisor.status(uid)
        if not 0 <= replica_id < status.replica:
            raise errors.BadRequest(
                f"{uid} has replicas 0 to {status.replica - 1}, not {replica_id}.",
                "replica_id",
            )
        await supervisor.scale(uid, status.replica - 1)
        return Json({"remaining_replicas": status.replica - 1})

    return routes


def watching(supervisor: SupervisorClient, table: RouteTable) -> APIRouter:
    routes = APIRouter(tags=["watch"], dependencies=[by_any_name(table)])

    @routes.get("/v1/models/{uid:path}/scale")
    @described("How many replicas a model has, and how much there is to do", ScaleNumbers)
    async def scale_of(uid: str) -> Json:
        """For other autoscalers as well, such as KEDA's `metrics-api` scaler."""
        return Json((await supervisor.scale_of(uid)).model_dump(mode="json"))

    @routes.get("/v1/models/{uid:path}/replicas")
    @described("The replicas of a model", list[ReplicaRow])
    async def replicas(uid: str) -> Json:
        status = await supervisor.status(uid)
        return Json([replica_row(status, worker) for worker in status.workers])

    return routes
