"""What Ray's autoscaler is asked to keep room for."""

from __future__ import annotations

from typing import Any

import pytest

from cluster import Client
from cluster.status import WorkerState
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
