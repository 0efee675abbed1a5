"""What Ray's autoscaler is asked to keep room for."""

from __future__ import annotations

from typing import Any

import pytest

from cluster import Client
from cluster.launch import LaunchSpec
from cluster.runtime.growth import room_for
from cluster.status import ModelStatus, WorkerState
from tests.cluster.statuses import make_status, make_worker
from tests.k8s.pods import Network, Release
from tests.k8s.rendering import rendered
from tests.live import ROOT, until

GROWING: dict[str, Any] = {
    "settings": {"plugins": ["tests.families"], "tick_s": 0.3},
    "environment": {"PYTHONPATH": str(ROOT)},
    "nodeGroups": [{"name": "l4", "gpus": 1, "replicas": 0, "min": 0, "max": 3, "cpus": "4", "memory": "4Gi"}],
    "models": [{"model_name": "echo", "model_uid": "two", "n_gpu": 1, "replica": 2}],
}
#: What the autoscaler reads, as a short text.
ASKED = """
import os
from ray.autoscaler.v2.sdk import get_cluster_status
demands = get_cluster_status(f"{os.environ['POD_IP']}:6379").resource_demands.cluster_constraint_demand
print([(row.bundle, row.count) for demand in demands for row in demand.bundles_by_count])
"""


def wish(workers: tuple[Any, ...] = (), **fields: Any) -> ModelStatus:
    status = make_status("m", "WAITING", replica=fields.get("replica", 1), workers=workers)
    spec = LaunchSpec(model_name="m", **fields)
    return status.model_copy(update={"wanted": status.wanted.model_copy(update={"spec": spec})})


def test_each_worker_asks_for_its_gpus_whether_it_runs_or_waits() -> None:
    assert room_for([wish(n_gpu=2, replica=2), wish(n_gpu=0.5)]) == [{"GPU": 2.0}, {"GPU": 2.0}, {"GPU": 0.5}]
    running = make_worker(0, "READY", cards=(0,))
    assert room_for([wish((running,), n_gpu=1)]) == [{"GPU": 1.0}], "or its node would go while it serves"
    assert room_for([wish(gpu_idx=[0, 1])]) == [{"GPU": 2.0}]


def test_a_model_on_cpu_asks_for_nothing() -> None:
    assert room_for([wish(n_gpu=None)]) == []
    assert room_for([wish((make_worker(0, "READY"),), n_gpu="auto")]) == [], "it found a place without"
    assert room_for([wish(n_gpu="auto")]) == [{"GPU": 1.0}], "it waits, so no CPU would have it"
    assert room_for([]) == []


@pytest.mark.ray
@pytest.mark.slow
def test_a_group_without_pods_is_asked_for_and_used_when_it_comes(network: Network) -> None:
    release = Release(network, rendered(GROWING))
    head = release.start_head()
    until(lambda: head.answers("readinessProbe"), within=90, why="the head does not serve")
    until(lambda: head.run(["python", "-c", ASKED]).stdout.strip() == "[({'GPU': 1.0}, 2)]", within=30)
    # The operator would do this.
    pod = release.start("l4")
    with Client(f"http://{head.ip}:9997", release.key) as client:
        until(lambda: [w.node for w in client.status("two").workers if w.state == WorkerState.READY], within=60)
        assert [worker.node for worker in client.status("two").workers] == [pod.ip]
