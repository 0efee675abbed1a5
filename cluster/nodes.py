"""Nodes that come and go while the cluster runs: one leaves in order, and Ray's autoscaler hears what is needed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from cluster import errors
from cluster.deploying import connect
from cluster.ray_head import START_TIMEOUT_S
from cluster.settings import Settings
from cluster.spec import ModelStatus

#: How long a balancer may go on sending to a node that is about to leave.
BALANCER_S = 5.0
#: How often Ray's autoscaler is told what the wishes need.
GROWTH_S = 2.0


def leave(settings: Settings, address: str, within_s: float, may_end_head: Callable[[], bool]) -> list[str]:
    """For a node that is about to end: it gets nothing new, and this returns when it has finished what it has, or
    when the time is up. Returns the names of the workers that were still busy then."""
    os.environ.update(settings.as_environment())
    deadline = time.monotonic() + within_s
    connect(settings, address)
    import ray

    try:
        node = ray.get_runtime_context().get_node_id()
        is_head = _is_head(node)
        if is_head and not may_end_head():
            raise errors.Conflict(
                "This node is the head: without its ingress nobody is answered. Stop everything with `cluster down`, "
                "or say --yes where something brings the head back."
            )
        time.sleep(min(BALANCER_S, within_s))
        if is_head:
            _end_ingress_here(within_s)
            return []
        _tell_ray(address, node, max(deadline - time.monotonic(), 0.0))
        return asyncio.run(_drain_workers(settings, node, deadline))
    finally:
        ray.shutdown()


def _is_head(node: str) -> bool:
    import ray

    from cluster import actors

    return any(row["NodeID"] == node and actors.HEAD_RESOURCE in row["Resources"] for row in ray.nodes())


def _end_ingress_here(within_s: float) -> None:
    """Ray Serve lets it finish; the next `up` puts it back."""
    from ray import serve

    from deployments.ingress.app import APP_NAME

    worker = threading.Thread(target=serve.delete, args=(APP_NAME,), daemon=True)
    worker.start()
    worker.join(within_s)


def _tell_ray(address: str, node: str, seconds: float) -> None:
    """Ray starts nothing here any more, and Ray Serve moves its ingress away."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", f"--address={address}", f"--node-id={node}"]
    command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=the node leaves"]
    command += [f"--deadline-remaining-seconds={max(1, int(seconds))}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False)
    if done.returncode:
        raise errors.Unavailable(f"Ray does not let node {node} go: {(done.stderr or done.stdout).strip()[-300:]}")


async def _drain_workers(settings: Settings, node: str, deadline: float) -> list[str]:
    """A worker that drains refuses what is sent to it, which an ingress then sends elsewhere."""
    from cluster import actors

    snapshot = await actors.Control.find(settings).call_patiently("watch", -1, 5.0)
    here = {name: snapshot.handles[name] for name, (at, _) in snapshot.sockets.items() if at == node}
    busy = {name: actors.RayHandle(handle) for name, handle in here.items()}
    for handle in busy.values():
        await handle.control("drain", snapshot.epoch, timeout_s=10.0)
    while busy and time.monotonic() < deadline:
        busy = {name: handle for name, handle in busy.items() if await _is_busy(handle)}
        await asyncio.sleep(0.2)
    return sorted(busy)


async def _is_busy(handle: Any) -> bool:
    try:
        _, _, report = await handle.control("describe", timeout_s=5.0)
    except errors.WorkerLost:
        return False
    except errors.ClusterError:
        return True
    return bool(report.phase != "drained")


class Growth:
    """Tells Ray's autoscaler how many GPUs the wishes need together; it adds nodes for them, and keeps those."""

    def __init__(self, settings: Settings, address: str) -> None:
        from cluster import actors

        connect(settings, address)
        self._supervisor = actors.Control.find(settings)
        self._told: list[dict[str, float]] = []
        threading.Thread(target=self._go_on, name="growth", daemon=True).start()

    def _go_on(self) -> None:
        while True:
            self._tell()
            time.sleep(GROWTH_S)

    def _tell(self) -> None:
        from ray.autoscaler import sdk

        try:
            asked = room_for(asyncio.run(self._supervisor.call("all_statuses")))
        except errors.Unavailable:
            return
        if asked != self._told:
            sdk.request_resources(bundles=asked)
            self._told = asked


def room_for(statuses: Iterable[ModelStatus]) -> list[dict[str, float]]:
    """The GPUs that each worker wished for needs, those that run included: it is all that the autoscaler keeps."""
    found = []
    for status in statuses:
        lives_on_cpu = bool(status.workers) and not any(worker.cards for worker in status.workers)
        for index in range(status.wanted.replica):
            place = status.wanted.spec.place_of(index)
            auto = 0.0 if lives_on_cpu else 1.0
            gpus = float(len(place.gpu_idx)) if place.gpu_idx else auto if place.n_gpu == "auto" else place.n_gpu
            if gpus:
                found.append({"GPU": float(gpus)})
    return found
