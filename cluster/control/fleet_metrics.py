"""The fleet as metrics: derived from its state when a page is asked for, never counted. Pure."""

from __future__ import annotations

from collections.abc import Collection

from cluster.metrics import Samples, gauge_family
from cluster.status import Claim, ModelStatus, Node


def samples_of(
    statuses: Collection[ModelStatus],
    nodes: Collection[tuple[Node, Claim, int]],
    uptime_s: float,
    free_bytes: int | None = None,
) -> Samples:
    """`nodes`: each with what is claimed on it, and by how many workers."""
    states = [
        ({"model": status.uid, "replica": worker.id, "state": str(worker.state)}, 1.0)
        for status in statuses
        for worker in status.workers
    ]
    replicas = [({"model": status.uid}, float(status.replica)) for status in statuses]
    models = [({"model": status.uid, "state": str(status.state)}, 1.0) for status in statuses]
    restarts = [({"model": status.uid}, float(status.restarts)) for status in statuses]
    memory = [({"node": node.ip}, float(node.memory_bytes)) for node, _, _ in nodes]
    claimed = [({"node": node.ip}, float(claim.memory_bytes)) for node, claim, _ in nodes]
    free: list[tuple[dict[str, str], float]] = [({}, float(free_bytes))] if free_bytes is not None else []
    return [
        gauge_family("cluster_worker_state", "Workers by state.", states),
        gauge_family("cluster_model_state", "Models by state.", models),
        gauge_family("cluster_replicas_wanted", "Workers wanted.", replicas),
        gauge_family("cluster_worker_restarts", "Workers lost and replaced.", restarts),
        gauge_family("cluster_node_memory_bytes", "Memory of a node.", memory),
        gauge_family("cluster_node_claimed_bytes", "Memory claimed on a node.", claimed),
        gauge_family("cluster_disk_free_bytes", "Left on the disk of the store.", free),
        gauge_family("cluster_uptime_seconds", "Age of the supervisor.", [({}, uptime_s)]),
    ]
