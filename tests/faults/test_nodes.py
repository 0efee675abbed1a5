"""Several machines simulated on one: raylets of their own, with GPUs that do not exist."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from cluster import Client, errors
from cluster.runtime.connection import variables_for
from cluster.runtime.place import Place
from cluster.status import ModelState, ModelStatus
from tests.documented import LAUNCH
from tests.fake_driver import FakeDriver
from tests.faults.traffic import traffic
from tests.live import LiveCluster, until
from tests.xinference_command import xinference

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TWO_CARDS, ONE_CARD, CPU_ONLY, WITH_DRIVER = "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"
GIB = 2**30


@pytest.fixture(scope="module")
def nodes(breakable: LiveCluster) -> Iterator[LiveCluster]:
    breakable.add_node(gpus=2, ip=TWO_CARDS)
    breakable.add_node(gpus=1, ip=ONE_CARD)
    yield breakable
    for node in list(breakable.nodes):
        breakable.lose_node(node)


def launch(cluster: LiveCluster, uid: str, **fields: object) -> ModelStatus:
    with cluster.client() as client:
        client.launch_model(model_name="echo", model_type="echo", model_uid=uid, **fields)
        return client.status(uid)


def places(status: ModelStatus) -> list[tuple[str, tuple[int, ...]]]:
    return sorted((worker.node, worker.cards) for worker in status.workers)


@pytest.mark.documented(LAUNCH, "--gpu-idx", "--worker-ip", "--n-gpu")
def test_xinferences_command_line_says_where(nodes: LiveCluster) -> None:
    where = ["--worker-ip", TWO_CARDS, "--gpu-idx", "0,1", "--replica", "2", "--n-gpu", "1"]
    assert "Model uid: chosen" in xinference(nodes.url, "launch", "-n", "echo", "-t", "echo", "-u", "chosen", *where)
    with nodes.client() as client:
        assert places(client.status("chosen")) == [(TWO_CARDS, (0,)), (TWO_CARDS, (1,))]
        client.terminate_model("chosen")
        until(lambda: not client.statuses(), within=10)


def test_placement_keeps_to_what_was_asked(nodes: LiveCluster) -> None:
    half = launch(nodes, "half", n_gpu=0.5)
    other_half = launch(nodes, "other-half", n_gpu=0.5)
    assert places(half) == places(other_half), "two halves share a card and leave the whole ones free"
    pinned = launch(nodes, "pinned", gpu_idx=[1], worker_ip=TWO_CARDS)
    assert places(pinned) == [(TWO_CARDS, (1,))]
    assert pinned.about["cards"] == "1", "the process sees just the card that was chosen"
    on_cpu = launch(nodes, "on-cpu", n_gpu=None, worker_ip=ONE_CARD)
    assert places(on_cpu) == [(ONE_CARD, ())] and on_cpu.about["cards"] == ""
    with pytest.raises(errors.DoesNotFit) as refusal:
        launch(nodes, "both", n_gpu=2)
    assert f"{TWO_CARDS}: 1 of 2 GPUs free, 2 asked" in str(refusal.value)
    assert "has no GPU" in str(refusal.value)
    with pytest.raises(errors.DoesNotFit, match="0 of GPU 1 free, 1 asked"):
        launch(nodes, "taken", gpu_idx=[1], worker_ip=TWO_CARDS)
    with pytest.raises(errors.DoesNotFit, match="has GPUs 0 to 0, not 5"):
        launch(nodes, "absent", gpu_idx=[5], worker_ip=ONE_CARD)
    with pytest.raises(errors.DoesNotFit, match="is not 10.9.9.9"):
        launch(nodes, "nowhere", worker_ip="10.9.9.9")


def test_cards_that_torch_cannot_use_do_not_keep_the_default_launch_from_the_cpu(nodes: LiveCluster) -> None:
    by_default = launch(nodes, "by-default")
    assert [worker.cards for worker in by_default.workers] == [()] and by_default.state == ModelState.READY
    refused = pytest.raises(errors.LoadFailed, match=r"was given a GPU, but torch .* of this node can use none")
    with refused, nodes.client() as client:
        client.launch_model(model_name="ce-tiny", model_type="rerank", model_uid="by-number", n_gpu=1)


def test_a_supervisor_that_comes_back_waits_for_no_torch_to_say_which_cards_there_are(nodes: LiveCluster) -> None:
    placed = launch(nodes, "placed", n_gpu=1)
    nodes.named("SupervisorActor")[0].kill()
    killed = time.monotonic()
    with nodes.client() as client:
        until(lambda: is_answered(client), within=60)
        back = time.monotonic() - killed
        assert places(client.status("placed")) == places(placed)
    print(f"\nsupervisor lost beside nodes with cards: back after {back:.1f} s")
    again = launch(nodes, "again")
    assert [worker.cards for worker in again.workers] == [()]


def is_answered(client: Client) -> bool:
    try:
        return bool(client.cluster_info())
    except errors.ClusterError:
        return False


def test_replicas_spread_and_take_their_own_cards(nodes: LiveCluster) -> None:
    spread = launch(nodes, "spread", replica=3, n_gpu=1)
    assert places(spread) == [(TWO_CARDS, (0,)), (TWO_CARDS, (1,)), (ONE_CARD, (0,))]
    listed = launch(nodes, "cpus", replica=2, n_gpu=None)
    assert len({worker.node for worker in listed.workers}) == 2


def test_pairs_of_cards_are_shared_out_over_replicas(nodes: LiveCluster) -> None:
    status = launch(nodes, "pairs", replica=2, gpu_idx=[0, 1], worker_ip=TWO_CARDS)
    assert places(status) == [(TWO_CARDS, (0,)), (TWO_CARDS, (1,))]
    with pytest.raises(errors.BadOption, match="multiple of replica"):
        launch(nodes, "odd", replica=2, gpu_idx=[0])


def test_a_lost_node_costs_no_request_and_its_model_moves(nodes: LiveCluster) -> None:
    extra = nodes.add_node(gpus=0, ip=CPU_ONLY)
    with nodes.client() as client:
        client.launch_model(
            model_name="echo",
            model_type="echo",
            model_uid="moves",
            replica=2,
            replica_config=[{"worker_ip": CPU_ONLY, "n_gpu": None}, {"n_gpu": None}],
        )
        client.launch_model(model_name="echo", model_type="echo", model_uid="free", replica=4, n_gpu=None)
        assert CPU_ONLY in {worker.node for worker in client.status("free").workers}
        with traffic(nodes.url, "free") as seen:
            lost = time.monotonic()
            nodes.lose_node(extra)
            until(
                lambda: (
                    (s := client.status("free")).state == ModelState.READY
                    and CPU_ONLY not in {w.node for w in s.workers}
                ),
                within=60,
            )
            moved = time.monotonic() - lost
        print(f"\nnode lost: {seen}, model whole again elsewhere after {moved:.1f} s")
        assert seen.failures == []
        # Its other replica may have been on the same node, and is back a moment later.
        until(lambda: client.status("moves").state == ModelState.DEGRADED, within=30)
        stuck = client.status("moves")
        assert f"is not {CPU_ONLY}" in stuck.reason, stuck.reason


def test_cards_are_shown_with_who_has_them_and_strangers_are_no_room(
    breakable: LiveCluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    driver = FakeDriver(tmp_path_factory.mktemp("driver"))
    card = f"card|NVIDIA X|GPU-1|{24 * GIB}"
    stranger = f"process|{os.getpid()}|{23 * GIB + GIB // 2}"
    driver.show(f"{card}|{23 * GIB + GIB // 2}|40|0", stranger)
    node = breakable.add_node(gpus=1, ip=WITH_DRIVER, **driver.variables)

    def shown() -> Any:
        with breakable.client() as client:
            (row,) = [row for row in client.cluster_info() if row["ip_address"] == WITH_DRIVER]
        return row["cards"][0]

    def asking() -> list[int]:
        """The processes that are asking the driver."""
        mine = ("FAKE_NVML", driver.variables["FAKE_NVML"])
        processes = psutil.process_iter(["name", "environ"])
        return [
            process.pid
            for process in processes
            if process.info["name"].startswith("ray::read_there") and mine in (process.info["environ"] or {}).items()
        ]

    try:
        until(lambda: shown()["foreign"], within=30, why="the stranger is not seen")
        assert (shown()["name"], shown()["uuid"], shown()["load"]) == ("NVIDIA X", "GPU-1", 0.4)
        with pytest.raises(errors.DoesNotFit) as refusal:
            launch(breakable, "late", worker_ip=WITH_DRIVER, n_gpu=1, memory="2GiB")
        assert f"card 0: 24.0 GiB, 0.0 claimed, 23.5 used by others (pid {os.getpid()}, " in refusal.value.message
        assert "): 0.5 free, 2.0 GiB asked" in refusal.value.message
        assert "23.5 GiB (pid" in breakable.command("nodes").stdout
        driver.show("hang")
        until(asking, within=15, why="nobody asks the driver that hangs")
        # Who asks it is ended after a while, and what is known of the card stays.
        (first,) = asking()
        until(lambda: not psutil.pid_exists(first), within=30, why="who asks a driver that hangs is not ended")
        assert shown()["foreign"] and len(asking()) <= 1
        driver.show(f"{card}|0|0|0")
        until(lambda: not shown()["foreign"], within=15, why="the stranger is gone and still counts")
        (worker,) = launch(breakable, "late", worker_ip=WITH_DRIVER, n_gpu=1, memory="2GiB").workers
        driver.show(f"{card}|{2 * GIB}|0|0", f"process|{worker.pid}|{2 * GIB}")
        own = until(lambda: shown()["processes"], within=15, why="the worker's memory is not seen")
        assert (own[0]["model"], own[0]["replica"], own[0]["bytes"]) == ("late", 0, 2 * GIB)
        assert (shown()["foreign"], shown()["claimed"]) == (0, 24 * GIB)
        text = httpx.get(f"{breakable.url}/metrics", timeout=30).text
        assert f'cluster_card_bytes{{card="0",kind="used",node="{WITH_DRIVER}"}} {float(2 * GIB)!r}' in text
    finally:
        breakable.terminate_all()
        breakable.lose_node(node)


LEASES = """
import json, sys, ray
from ray.util import placement_group_table
ray.init(address=sys.argv[1], namespace=sys.argv[2], log_to_driver=False, logging_level="error")
rows = [row for row in placement_group_table().values() if row["name"].startswith("lease:")]
made = [row for row in rows if row["state"] != "REMOVED"]
cards = {row["name"].split(":")[2]: [row["state"], row["bundles"][0]["GPU"]] for row in made}
print(json.dumps(cards))
"""


def leases(cluster: LiveCluster) -> Any:
    """What Ray has in its ledger: by model the state of its lease, and how much of cards."""
    state = Place(cluster.settings).read()
    assert state is not None
    done = subprocess.run(
        [sys.executable, "-c", LEASES, state["address"], cluster.settings.namespace],
        env={**cluster.ray_environment(), **variables_for(state["address"])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # On a busy machine Ray writes behind it.
    return json.loads(done.stdout.splitlines()[0])


def test_a_model_that_dozes_lends_its_card_and_takes_it_again(nodes: LiveCluster) -> None:
    card, took = {"n_gpu": 1, "worker_ip": ONE_CARD}, ["CREATED", 1.0]
    (first,) = launch(nodes, "first", **card).workers
    until(lambda: leases(nodes) == {"first": took}, within=15)
    with nodes.client() as client:
        with pytest.raises(errors.DoesNotFit):
            client.launch_model(model_name="echo", model_type="echo", model_uid="second", **card)
        client.doze_model("first")
        until(lambda: [worker.state for worker in client.status("first").workers] == ["DOZING"], within=15)
        launch(nodes, "second", **card)
        until(lambda: leases(nodes) == {"second": took}, within=15)
        # A supervisor that comes back finds them, and a worker that is killed takes its own with it.
        nodes.named("SupervisorActor")[0].kill()
        until(
            lambda: leases(nodes) == {"second": took} and client.status("first").state == ModelState.DOZING, within=60
        )
        client.terminate_model("second")
        client.wake_model("first")
        (again,) = client.status("first").workers
        assert (again.pid, again.state) == (first.pid, "READY")
        until(lambda: leases(nodes) == {"first": took}, within=15)
        psutil.Process(again.pid).kill()
        until(lambda: client.status("first").state != ModelState.READY, within=15)
        until(lambda: client.status("first").state == ModelState.READY, within=60)
        until(lambda: leases(nodes) == {"first": took}, within=15)
        client.terminate_model("first")
        until(lambda: leases(nodes) == {}, within=15)
