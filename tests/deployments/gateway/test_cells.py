"""Real clusters behind the real command."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster import Client
from tests.faults.traffic import traffic
from tests.live import LiveCluster, free_port, until


@pytest.fixture(scope="module")
def doomed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    """A second cluster, with the same model as the first."""
    cluster = LiveCluster(tmp_path_factory.mktemp("doomed"), CLUSTER_TICK_S="0.3")
    cluster.up()
    yield cluster
    if cluster.processes():
        cluster.down()


@pytest.fixture(scope="module")
def gateway(live: LiveCluster, doomed: LiveCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a gateway before both."""
    port = free_port()
    home = tmp_path_factory.mktemp("gateway")
    words = ["gateway", "--port", str(port), "--cell", f"first={live.url}", "--cell", f"second={doomed.url}"]
    process = subprocess.Popen(live.command_line(*words), env={**live.environment, "CLUSTER_HOME": str(home)})
    url = f"http://127.0.0.1:{port}"

    def serves() -> bool:
        assert process.poll() is None, "the gateway has ended"
        try:
            return httpx.get(f"{url}/ready").json()["live"] == 2
        except httpx.TransportError:
            return False

    until(serves, within=30)
    yield url
    process.terminate()
    assert process.wait(10) == 0


@pytest.mark.slow
def test_one_list_is_declared_over_both_cells_and_again_changes_nothing(
    gateway: str, live: LiveCluster, doomed: LiveCluster, tmp_path: Path
) -> None:
    declared = tmp_path / "models.yaml"

    def apply(replicas: int, *words: str) -> Any:
        declared.write_text(f"models: [{{model_name: echo, model_uid: spread, replica: {replicas}}}]")
        done = live.command("apply", "-f", str(declared), "--no-prune", "--json", *words)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def replicas_of(cluster: LiveCluster) -> int:
        with cluster.client() as client:
            return sum(status.ready for status in client.statuses() if status.uid == "spread")

    behind = ("-e", gateway, "--cells", "all")
    done = apply(3, *behind)
    counts = done["replicas"]["spread"]
    assert sum(counts.values()) == 3 and done["left_out"] == {}
    assert [replicas_of(live), replicas_of(doomed)] == [counts.get("first", 0), counts.get("second", 0)]
    again = apply(3, "--cells", f"first={live.url},second={doomed.url}")
    assert again["replicas"]["spread"] == counts
    assert {row["change"] for rows in again["cells"].values() for row in rows} == {"same"}
    more = apply(5, *behind)["replicas"]["spread"]
    assert sum(more.values()) == 5 and all(more.get(cell, 0) >= count for cell, count in counts.items())
    print(f"3 replicas: {counts}; 5 replicas: {more}")
    for cluster in (live, doomed):
        with cluster.client() as client:
            if "spread" in client.list_models():
                client.terminate_model("spread")


@pytest.mark.slow
def test_models_of_both_cells_serve_under_one_address_and_a_dead_cell_costs_no_request(
    gateway: str, live: LiveCluster, doomed: LiveCluster
) -> None:
    for cluster in (live, doomed):
        with cluster.client() as client:
            client.launch_model("echo", model_uid="gated")
    with Client(gateway) as client:
        until(lambda: client.list_models().get("gated", {}).get("cells") == ["first", "second"], within=5)
        uid = client.launch_model("echo", model_uid="anywhere")
        assert uid in client.list_models()
        until(lambda: httpx.post(f"{gateway}/v1/infer", json={"model": uid, "items": [1]}).is_success, within=5)
        with traffic(gateway, "gated") as seen:
            doomed.kill_everything()
            until(lambda: httpx.get(f"{gateway}/ready").json()["live"] == 1, within=10)
        # The echo's answers begin when they are whole, so every request of the dead cell was sent to the other.
        assert not seen.failures, str(seen)
        assert client.list_models()["gated"]["cells"] == ["first"]
    with live.client() as client:
        for model in client.statuses():
            if model.uid in ("gated", "anywhere"):
                client.terminate_model(model.uid)
