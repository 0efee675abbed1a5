"""The fleet as metrics: derived from its state when a page is asked for, never counted."""

from __future__ import annotations

from cluster.control.fleet import Fleet
from cluster.control.views import state_of
from cluster.metrics import Samples, gauge_family


def samples_of(fleet: Fleet, uptime_s: float, free_bytes: int | None = None) -> Samples:
    states = [
        ({"model": w.name.uid, "replica": str(w.name), "state": str(w.state)}, 1.0) for w in fleet.workers.values()
    ]
    replicas = [({"model": uid}, float(wanted.replica)) for uid, wanted in fleet.wanted.items()]
    models = [({"model": uid, "state": str(state_of(fleet, wanted)[0])}, 1.0) for uid, wanted in fleet.wanted.items()]
    restarts = [({"model": uid}, float(fleet.restarts_of(uid))) for uid in fleet.wanted]
    memory = [({"node": n.ip}, float(n.memory_bytes)) for n in fleet.nodes.values()]
    claimed = [
        ({"node": n.ip}, float(sum(w.claim.memory_bytes for w in fleet.workers.on(n.id)))) for n in fleet.nodes.values()
    ]
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
