"""One cluster does not end another: not from another home, and not by taking over its head."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from cluster.runtime.place import Place
from tests.faults.traffic import traffic
from tests.live import ROOT, LiveCluster, free_port, until

pytestmark = pytest.mark.ray

#: Processes that an upgrade replaces, and those that go on, by words of their commands.
REPLACED = ("cluster.runtime.watchdog", "ray::SupervisorActor", "ray::ServeReplica")
KEPT = ("raylet/raylet", "gcs/gcs_server", "ray::WorkerActor")


def asked(cluster: LiveCluster, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a command with the address and the token of that Ray."""
    state = Place(cluster.settings).read()
    assert state is not None
    return subprocess.run(
        cluster.command_line(*words, f"--address={state['address']}"),
        env={**cluster.ray_environment(), **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_another_home_is_refused_and_the_models_go_on(breakable: LiveCluster, tmp_path: Path) -> None:
    with breakable.client() as client:
        client.launch_model(model_name="echo", model_type="echo", model_uid="kept")
    (worker,) = breakable.worker_pids("kept")
    with traffic(breakable.url, "kept", callers=8) as seen:
        home = {"CLUSTER_HOME": str(tmp_path), "CLUSTER_PORT": str(free_port())}
        done = asked(breakable, "up", "--detach", **home)
        assert done.returncode == 11, done.stderr
        assert f"This Ray runs the cluster of {breakable.home}" in done.stderr and breakable.url in done.stderr
    print(f"\nstarted from another home: {seen}")
    assert seen.failures == [] and breakable.worker_pids("kept") == [worker]


def test_an_upgrade_replaces_everything_but_ray_and_the_workers_under_traffic(breakable: LiveCluster) -> None:
    with breakable.client() as client:
        client.launch_model(model_name="echo", model_type="echo", model_uid="kept")
    before = {word: {p.pid for p in breakable.named(word)} for word in (*REPLACED, *KEPT)}
    with traffic(breakable.url, "kept", callers=8) as seen:
        done = breakable.command("upgrade")
        assert done.returncode == 0 and "Upgraded from" in done.stdout, done.stderr
        after = {word: {p.pid for p in breakable.named(word)} for word in (*REPLACED, *KEPT)}
    print(f"\n{done.stdout.strip()} {seen}")
    assert seen.failures == []
    assert all(before[word] and after[word] and not before[word] & after[word] for word in REPLACED), (before, after)
    assert all(before[word] == after[word] for word in KEPT), (before, after)
    (watchdog,) = breakable.named("cluster.runtime.watchdog")
    assert Place(breakable.settings).holder() == watchdog.pid
    elsewhere = breakable.command("upgrade", "--port", str(free_port()))
    assert elsewhere.returncode == 11 and "cannot move it to" in elsewhere.stderr


def test_the_head_is_not_taken_out_of_use_unasked(breakable: LiveCluster) -> None:
    done = asked(breakable, "down", "--node")
    assert done.returncode == 11 and "This node is the head" in done.stderr, done.stderr
    assert breakable.get("/health").status_code == 200


def test_in_the_foreground_it_goes_on_without_its_watchdog_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    cluster = LiveCluster(tmp_path)
    command = subprocess.Popen(
        cluster.command_line("up"), env=cluster.environment, cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert command.stderr is not None
    try:
        assert any("Press Ctrl-C" in line for line in command.stderr)
        (watchdog,) = cluster.named("cluster.runtime.watchdog")
        watchdog.kill()
        until(lambda: [p for p in cluster.named("cluster.runtime.watchdog") if p.pid != watchdog.pid], within=20)
        # Its successor is in charge of Ray's processes by now.
        until(lambda: Place(cluster.settings).holder() not in (None, watchdog.pid), within=20)
        assert cluster.get("/health").status_code == 200
    finally:
        command.send_signal(signal.SIGINT)
        assert command.wait(60) == 0
    assert not cluster.processes()
