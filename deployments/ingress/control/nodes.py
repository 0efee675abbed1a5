"""The machines of the cluster, and what runs on them."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request

from cluster import keys
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.status import Claim, Node
from deployments.ingress.bodies import Json
from deployments.ingress.control.shapes import load_row, node_row


def watching(supervisor: SupervisorClient) -> APIRouter:
    routes = APIRouter(tags=["watch"])
    started = time.monotonic()

    async def node_rows() -> list[tuple[Node, Claim, int]]:
        rows = await supervisor.nodes()
        return rows

    @routes.get("/v1/cluster/info")
    async def info(detailed: bool = False) -> Json:
        free_bytes = await supervisor.free_bytes()
        rows = [node_row(*row) for row in await node_rows()]
        return Json([{**row, "disk_free": free_bytes if row["node_type"] == "Supervisor" else None} for row in rows])

    @routes.get("/v1/cluster/devices")
    async def devices() -> Json:
        return Json(max((node.gpus for node, _, _ in await node_rows()), default=0))

    @routes.get("/v1/workers")
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
    async def head() -> Json:
        heads = [node.ip for node, _, _ in await node_rows() if node.is_head]
        return Json({"supervisor_ip": heads[0] if heads else ""})

    @routes.get("/status")
    async def cluster_status() -> Json:
        rows = await node_rows()
        uptime = await supervisor.uptime()
        loads = {node.ip: {"update_time": time.time(), "status": load_row(node, claim)} for node, claim, _ in rows}
        return Json({"uptime": int(max(uptime, time.monotonic() - started)), "workers": loads})

    return routes
