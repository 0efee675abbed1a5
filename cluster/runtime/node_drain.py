"""Takes a node out of use in order while the cluster runs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import ray
from ray import serve

from cluster import errors
from cluster.runtime.actor_calls import HEAD_RESOURCE
from cluster.runtime.connection import connect
from cluster.runtime.platform import RayHandle
from cluster.runtime.ray_head import START_TIMEOUT_S
from cluster.runtime.serving import APP_NAME
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.settings import Settings

#: How long a balancer may go on sending to a node that is about to leave.
BALANCER_S = 5.0


def leave(settings: Settings, address: str, within_s: float, may_end_head: Callable[[], bool]) -> list[str]:
    """For a node that is about to end: it gets nothing new, and this returns when it has finished what it has, or
    when the time is up. Returns the names of the workers that were still busy then."""
    deadline = time.monotonic() + within_s
    connect(settings, address)
    try:
        node = ray.get_runtime_context().get_node_id()
        is_head = _is_head(node)
        if is_head and not may_end_head():
            raise errors.Conflict(
                "This node is the head: without its ingress no request is answered. Stop everything with `cluster "
                "down`, or pass --yes if something starts the head again."
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
    return any(row["NodeID"] == node and HEAD_RESOURCE in row["Resources"] for row in ray.nodes())


def _end_ingress_here(within_s: float) -> None:
    """Ray Serve lets it finish; the next `up` puts it back."""
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
    snapshot = await SupervisorClient.find(settings).snapshot()
    routes = [route for model in snapshot.models.values() for route in model.workers if route.address.node == node]
    busy = {route.worker: RayHandle(snapshot.handles[route.worker]) for route in routes}
    for handle in busy.values():
        await handle.drain(snapshot.epoch, timeout_s=10.0)
    while busy and time.monotonic() < deadline:
        busy = {name: handle for name, handle in busy.items() if await _is_busy(handle)}
        await asyncio.sleep(0.2)
    return sorted(busy)


async def _is_busy(handle: RayHandle) -> bool:
    try:
        _, _, report = await handle.describe(timeout_s=5.0)
    except errors.WorkerLost:
        return False
    except errors.ClusterError:
        return True
    return report.phase != "drained"
