"""Another program takes the memory: one model is ended, everything else goes on."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.runtime import node_memory
from cluster.status import ModelState
from tests.faults.test_faults import launch
from tests.faults.traffic import traffic
from tests.live import LiveCluster, until

pytestmark = pytest.mark.ray

STEP = 100 * 10**6
#: Takes that many more bytes for every line that it reads.
HOG = f"""
import sys
held = []
for line in sys.stdin:
    held.append(b"x" * {STEP})
    print(len(held), flush=True)
"""


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    """A cluster whose machine runs short of memory as soon as another program takes a gigabyte or two."""
    floor = node_memory.read().available_bytes - 2 * 10**9
    cluster = LiveCluster(
        tmp_path_factory.mktemp("bounded"), CLUSTER_MEMORY_FLOOR_BYTES=str(floor), CLUSTER_TICK_S="0.3"
    )
    cluster.up()
    yield cluster
    cluster.down()


@pytest.fixture(autouse=True)
def nothing_left(bounded: LiveCluster) -> Iterator[None]:
    yield
    bounded.terminate_all()


@pytest.fixture
def hog() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOG], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    yield process
    process.kill()
    process.wait()


def take_more(hog: subprocess.Popen[str]) -> None:
    assert hog.stdin is not None and hog.stdout is not None
    hog.stdin.write("\n")
    hog.stdout.readline()


def control_plane(cluster: LiveCluster) -> set[int]:
    words = ("ray::SupervisorActor", "ray::ServeReplica", "ray::ServeController", "gcs_server", "raylet")
    return {process.pid for word in words for process in cluster.named(word)}


def test_the_model_above_its_claim_gives_way_and_nobody_else_notices(
    bounded: LiveCluster, hog: subprocess.Popen[str]
) -> None:
    launch(bounded, "grown")
    launch(bounded, "other", replica=2)
    bounded.post("/v1/infer", {"model": "grown", "items": [{"hold": 500 * 10**6}]}).raise_for_status()
    (grown,) = bounded.worker_pids("grown")
    others, before = bounded.worker_pids("other"), control_plane(bounded)
    # By now the worker has reported how much it holds.
    time.sleep(2.5)
    with bounded.client() as client, traffic(bounded.url, "other", callers=8) as seen:
        assert bounded.worker_pids("other") == others, client.events("other")
        floor = int(bounded.environment["CLUSTER_MEMORY_FLOOR_BYTES"])
        while node_memory.read().available_bytes > floor:
            take_more(hog)
        short = time.monotonic()
        until(lambda: not psutil.pid_exists(grown) or bounded.worker_pids("grown") != [grown], within=10)
        gave_way = time.monotonic() - short
        # The memory that it gave back is taken as well, at once: had it been enough for a while, another one would go.
        # And then the pause after its loss is over.
        while time.monotonic() - short < 4:
            if node_memory.read().available_bytes > floor:
                take_more(hog)
            time.sleep(0.01)
        (text,) = until(
            lambda: [
                event["event_content"] for event in client.events("grown") if "HOST_OOM" in event["event_content"]
            ],
            within=5,
        )
        assert client.status("grown").state == ModelState.WAITING, "nothing is started while memory is short"
        assert "its memory ran out" in client.status("grown").reason and "holds most" in client.status("grown").reason
        hog.kill()
        until(lambda: client.status("grown").state == ModelState.READY, within=30)
        assert bounded.worker_pids("other") == others, client.events("other")
    print(f"\nmemory taken by a stranger: {seen}; the model above its claim gave way after {gave_way:.2f} s")
    print(text)
    assert seen.failures == []
    assert control_plane(bounded) == before
    assert gave_way < 1.5


def test_models_are_the_kernels_first_choice_and_the_control_plane_its_last(bounded: LiveCluster) -> None:
    launch(bounded, "first")
    scores = {
        word: {int(Path(f"/proc/{process.pid}/oom_score_adj").read_text()) for process in bounded.named(word)}
        for word in ("ray::WorkerActor", "ray::SupervisorActor", "ray::ServeReplica", "raylet", "gcs_server")
    }
    models = scores.pop("ray::WorkerActor")
    assert min(models) >= 400 + max(score for found in scores.values() for score in found), scores
