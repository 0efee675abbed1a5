"""The fleet as metrics: facts that are derived when somebody looks, and never counted."""

from __future__ import annotations

from cluster.control.fleet import Fleet
from cluster.control.views import state_of
from cluster.metrics import Samples, gauge_family


def samples_of(fleet: Fleet, uptime_s: float, free_bytes: int | None = None) -> Samples:
    states = [
        ({"model": w.name.uid, "replica": str(w.name), "state": str(w.state)}, 1.0) for w in fleet.workers.values()
    ]
    wished = [({"model": uid}, float(wish.replica)) for uid, wish in fleet.wanted.items()]
    models = [({"model": uid, "state": str(state_of(fleet, wish)[0])}, 1.0) for uid, wish in fleet.wanted.items()]
    restarts = [({"model": uid}, float(fleet.restarts_of(uid))) for uid in fleet.wanted]
    memory = [({"node": n.ip}, float(n.memory_bytes)) for n in fleet.nodes.values()]
    claimed = [
        ({"node": n.ip}, float(sum(w.claim.memory_bytes for w in fleet.workers.values() if w.node == n.id)))
        for n in fleet.nodes.values()
    ]
    free: list[tuple[dict[str, str], float]] = [({}, float(free_bytes))] if free_bytes is not None else []
    return [
        gauge_family("cluster_worker_state", "Workers by state.", states),
        gauge_family("cluster_model_state", "Models by state.", models),
        gauge_family("cluster_replicas_wanted", "Workers wished for.", wished),
        gauge_family("cluster_worker_restarts", "Workers lost and replaced.", restarts),
        gauge_family("cluster_node_memory_bytes", "Memory of a node.", memory),
        gauge_family("cluster_node_claimed_bytes", "Memory claimed on a node.", claimed),
        gauge_family("cluster_disk_free_bytes", "Left on the disk that wishes are written to.", free),
        gauge_family("cluster_uptime_seconds", "Age of the supervisor.", [({}, uptime_s)]),
    ]
