"""The machines of the cluster, and what runs on them."""

from __future__ import annotations

import time

from fastapi import APIRouter, Depends, Request
from typing_extensions import TypedDict

from cluster import keys
from cluster.control.closed_nodes import NodeMark
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.status import Claim, Node
from cluster.value import Value
from deployments.ingress.bodies import Json, checked, json_body
from deployments.ingress.control.access import refuse_limited
from deployments.ingress.control.card_shapes import Replicas
from deployments.ingress.control.shapes import CardLoad, CpuLoad, NodeRow, load_row, node_row
from deployments.ingress.openapi import described

#: A worker's address by the name that Xinference's clients read.
WorkerRow = TypedDict("WorkerRow", {"work-ip": str, "models": dict[str, str]})


class SupervisorAddress(TypedDict):
    supervisor_ip: str


class NodeLoad(TypedDict):
    update_time: float
    status: dict[str, CpuLoad | CardLoad]


class ClusterStatus(TypedDict):
    uptime: int
    workers: dict[str, NodeLoad]


class Mark(Value):
    mark: NodeMark


class MarkedNode(TypedDict):
    name: str
    id: str
    ip_address: str


def closing(supervisor: SupervisorClient) -> APIRouter:
    # A key for some models that could close a node would move the models of others.
    routes = APIRouter(tags=["nodes"], dependencies=[Depends(refuse_limited)])

    @routes.put("/v1/cluster/nodes/{node}")
    @described("Say whether models are placed on a node, or move away from it", MarkedNode, body=Mark)
    async def mark(node: str, request: Request) -> Json:
        """A worker on a node that drains goes when another one is READY elsewhere, so one that fits nowhere stays."""
        body: Mark = checked(Mark, await json_body(request))
        marked = await supervisor.mark_node(node, body.mark)
        return Json({"name": marked.name or marked.ip, "id": marked.id, "ip_address": marked.ip})

    return routes


def watching(supervisor: SupervisorClient) -> APIRouter:
    routes = APIRouter(tags=["watch"])
    started = time.monotonic()

    async def node_rows() -> list[tuple[Node, Claim, int]]:
        rows = await supervisor.nodes()
        return rows

    @routes.get("/v1/cluster/info")
    @described("The nodes, what they have and how much of it is claimed", list[NodeRow])
    async def info(request: Request, detailed: bool = False) -> Json:
        free_bytes, rows = await supervisor.free_bytes(), await node_rows()
        replicas: Replicas = {}
        if any(card.users for node, _, _ in rows for card in node.cards):
            visible = keys.visible(request.state.key, await supervisor.all_statuses())
            replicas = {worker.id: (status.uid, worker.index) for status in visible for worker in status.workers}
        return Json([node_row(*row, free_bytes, replicas, request.state.key) for row in rows])

    @routes.get("/v1/cluster/devices")
    @described("The most GPUs that one node has", int)
    async def devices() -> Json:
        return Json(max((node.gpus for node, _, _ in await node_rows()), default=0))

    @routes.get("/v1/workers")
    @described("The nodes, and the models whose workers are on each", list[WorkerRow])
    async def workers(request: Request) -> Json:
        every = await supervisor.all_statuses()
        statuses = keys.visible(request.state.key, every)
        names = [(worker.node, s.uid, s.wanted.entry.name) for s in statuses for worker in s.workers]
        return Json(
            [
                {"work-ip": node.ip, "models": {uid: name for ip, uid, name in names if ip == node.ip}}
                for node, _, _ in await node_rows()
            ]
        )

    @routes.get("/v1/supervisor")
    @described("The address of the head", SupervisorAddress)
    async def head() -> Json:
        heads = [node.ip for node, _, _ in await node_rows() if node.is_head]
        return Json({"supervisor_ip": heads[0] if heads else ""})

    @routes.get("/status")
    @described("The uptime of the cluster and the load of its nodes", ClusterStatus)
    async def cluster_status() -> Json:
        rows = await node_rows()
        uptime = await supervisor.uptime()
        loads = {node.ip: {"update_time": time.time(), "status": load_row(node, claim)} for node, claim, _ in rows}
        return Json({"uptime": int(max(uptime, time.monotonic() - started)), "workers": loads})

    return routes
