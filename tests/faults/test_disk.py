"""A full disk and a damaged store, for a cluster whose home is on a small disk of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster import errors
from cluster.control.sqlite_store import SqliteStore
from cluster.status import ModelState
from tests.faults.test_faults import kill, launch
from tests.faults.traffic import traffic
from tests.full_disk import SmallDisk, small_disk
from tests.live import LiveCluster, until

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    with small_disk(tmp_path_factory.mktemp("small"), "32m") as found:
        yield found


@pytest.fixture(scope="module")
def cluster(disk: SmallDisk) -> Iterator[LiveCluster]:
    cluster = LiveCluster(disk.root / "home", CLUSTER_TICK_S="0.3", CLUSTER_PROBE_S="1", CLUSTER_DRAIN_S="8")
    cluster.up()
    yield cluster
    cluster.down()


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Replaces the check of the cluster that other fault tests share, which these do not use."""


def supervisor(cluster: LiveCluster) -> psutil.Process:
    (process,) = cluster.named("SupervisorActor")
    return process


def test_on_a_full_disk_what_dies_is_replaced_the_supervisor_included(cluster: LiveCluster, disk: SmallDisk) -> None:
    launch(cluster, "full", replica=2)
    before = cluster.worker_pids("full")
    with cluster.client() as client, traffic(cluster.url, "full") as seen:
        disk.fill()
        old = supervisor(cluster)
        killed = kill(old.pid)
        until(lambda: [p for p in cluster.named("SupervisorActor") if p.pid != old.pid], within=30)
        until(lambda: cluster.worker_pids("full") == before, within=30)
        supervisor_s = time.monotonic() - killed
        killed = kill(before[0])
        until(lambda: len({*cluster.worker_pids("full")} - {before[0]}) == 2, within=30)
        worker_s = time.monotonic() - killed
        # The store has reserved some room for a few more events.
        launched = ["full"]
        with pytest.raises(errors.OutOfSpace, match="cannot be written"):
            for number in range(20):
                launched.append(launch(cluster, f"more-{number}"))
        assert [status.uid for status in client.statuses()] == launched
        told = cluster.get("/ready")
        assert told.status_code == 200 and told.json()["disk_free_bytes"] < 100_000
        disk.empty()
        launch(cluster, "other")
        assert "DISK FREE" in cluster.command("status").stdout
        for uid in launched[1:]:
            client.terminate_model(uid)
    print(f"\ndisk full: {seen}, supervisor back after {supervisor_s:.1f} s, worker after {worker_s:.1f} s")
    assert seen.failures == []


def test_a_step_back_to_a_version_that_cannot_read_a_wish_costs_no_request(cluster: LiveCluster) -> None:
    """The store contains what a later version wrote, and the supervisor that starts is of this version."""
    launch(cluster, "newer", replica=2)
    before = cluster.worker_pids("newer")
    store = SqliteStore(cluster.settings.store)
    with cluster.client() as client, traffic(cluster.url, "newer") as seen:
        row = store.get("wish", "newer")
        assert row is not None
        store.put("wish", "newer", {**row, "colour": "red"})
        kill(supervisor(cluster).pid)
        reason = "by a newer version and this one cannot read colour"
        until(lambda: [s for s in client.statuses() if reason in s.reason], within=30)
        assert reason in cluster.command("list").stdout
        assert cluster.worker_pids("newer") == before
    print(f"\na wish of a newer version: {seen}")
    assert seen.failures == []
    store.close()
    with cluster.client() as client:
        client.terminate_model("newer")
        until(lambda: not [pid for pid in before if psutil.pid_exists(pid)], within=20)


def test_after_down_the_file_alone_is_whole_and_damaged_it_is_salvaged_by_up(
    cluster: LiveCluster, tmp_path: Path
) -> None:
    cluster.down()
    store = cluster.settings.store
    copy = tmp_path / "copy.db"
    copy.write_bytes(store.read_bytes())
    assert set(SqliteStore(copy).all("wish")) == {"full", "other"}
    assert not list(store.parent.glob("cluster.db-*"))
    with store.open("r+b") as file:
        file.write(b"x" * 100)
    done = cluster.command("up", "--detach")
    assert done.returncode == 0, done.stderr
    print(f"\n{done.stderr}")
    assert f"{store} was damaged (file is not a database)" in done.stderr
    assert "2 models, 0 keys and 0 registrations could be read and are kept" in done.stderr
    with cluster.client() as client:
        until(lambda: {s.state for s in client.statuses()} == {ModelState.READY}, within=60)
        assert [event for event in client.events() if event["event_content"] in done.stderr]
