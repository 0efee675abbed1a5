"""How many replicas a model has, and which."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from cluster import errors
from cluster.runtime.supervisor_client import SupervisorClient
from deployments.ingress.bodies import Json, checked, json_body
from deployments.ingress.control.access import by_any_name
from deployments.ingress.control.shapes import ReplicaRow, replica_row
from deployments.ingress.openapi import described
from deployments.ingress.routing import RouteTable


class Replicas(BaseModel):
    replica: int = Field(strict=True)


class MoreReplicas(BaseModel):
    replica: int = Field(default=1, ge=1, strict=True)


class Scaled(TypedDict):
    model_uid: str
    replica: int


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
        body: Replicas = checked(Replicas, await json_body(request))
        status = await supervisor.scale(uid, body.replica)
        return Json({"model_uid": uid, "replica": status.replica})

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

    @routes.get("/v1/models/{uid:path}/replicas")
    @described("The replicas of a model", list[ReplicaRow])
    async def replicas(uid: str) -> Json:
        status = await supervisor.status(uid)
        return Json([replica_row(status, worker) for worker in status.workers])

    return routes
