"""Each process that the cluster depends on is killed or stopped under traffic: Ray's own, the watchdog, an ingress, the
supervisor. `pytest -s` shows ok / failed / held and the seconds to recover."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from cluster.control.sqlite_store import events_beside
from cluster.control.store import ITSELF
from cluster.runtime.heartbeat import beats
from cluster.runtime.place import Place
from tests.faults.traffic import Traffic, traffic
from tests.live import LiveCluster, is_alive, until

pytestmark = pytest.mark.ray

CALLERS = 8


@pytest.fixture(scope="module")
def cluster(usual: LiveCluster) -> LiveCluster:
    launch(usual, "echo")
    return usual


def launch(cluster: LiveCluster, uid: str) -> None:
    with cluster.client() as client:
        client.launch_model(model_name="echo", model_type="echo", model_uid=uid)
        if uid != "echo":
            client.terminate_model(uid)


def the(cluster: LiveCluster, word: str) -> psutil.Process:
    return cluster.named(word)[0]


def events(cluster: LiveCluster) -> str:
    """The events of the cluster itself, read from the file, since no server may be there to be asked."""
    with closing(sqlite3.connect(events_beside(cluster.settings.store))) as db:
        return "\n".join(text for (text,) in db.execute("SELECT text FROM events WHERE uid=? ORDER BY id", (ITSELF,)))


def only_closed(seen: Traffic) -> bool:
    """No answer was wrong, and each caller lost at most one request that it had sent."""
    closed = ("ClientOSError", "ServerDisconnectedError")
    return len(seen.failures) <= CALLERS and all(failure.startswith(closed) for failure in seen.failures)


def test_rays_control_process_killed_costs_no_request_and_no_worker(cluster: LiveCluster) -> None:
    (worker,) = cluster.worker_pids("echo")
    with traffic(cluster.url, "echo", CALLERS) as seen:
        the(cluster, "gcs_server").kill()
        killed = time.monotonic()
        launch(cluster, "after")
        recovered = time.monotonic() - killed
    print(f"\nGCS killed: {seen}, launches work again after {recovered:.1f} s")
    assert seen.failures == [] and recovered < 30
    assert cluster.worker_pids("echo") == [worker]
    assert "Ray's control process ended and is replaced" in events(cluster)


def test_rays_agent_killed_costs_no_request_and_no_node(cluster: LiveCluster) -> None:
    raylet, agent = the(cluster, "raylet/raylet"), the(cluster, "ray::RuntimeEnvAgent")
    with traffic(cluster.url, "echo", CALLERS) as seen:
        agent.kill()
        killed = time.monotonic()
        launch(cluster, "after")
        recovered = time.monotonic() - killed
    print(f"\nagent killed: {seen}, launches work again after {recovered:.1f} s")
    assert seen.failures == [] and recovered < 30
    # A launch may not need the agent, so it can be over before there is another.
    until(lambda: [new for new in cluster.named("ray::RuntimeEnvAgent") if new.pid != agent.pid], within=30)
    assert is_alive(raylet)


def test_a_killed_ingress_is_replaced_while_the_other_serves(cluster: LiveCluster) -> None:
    before = {process.pid for process in cluster.named("ray::ServeReplica")}
    the(cluster, "ray::ServeReplica").kill()
    killed = time.monotonic()
    answers = []

    def are_two_again() -> bool:
        # Each call has a connection of its own, because open connections to the killed process are lost.
        answers.append(cluster.post("/v1/infer", {"model": "echo", "items": ["x"]}).status_code)
        after = {process.pid for process in cluster.named("ray::ServeReplica")}
        return len(after) == 2 and after != before

    until(are_two_again, within=30)
    print(f"\none of two ingresses killed: ok {len(answers)}, another after {time.monotonic() - killed:.1f} s")
    assert set(answers) == {200}


def test_an_ingress_and_the_supervisor_that_hang_are_found_and_replaced(cluster: LiveCluster) -> None:
    # An ingress that replaced one in an earlier test may not serve yet, and without a supervisor it would not learn of
    # any model.
    until(lambda: sum(beat.kind == "ingress" for beat in beats(Place(cluster.settings).beats)) == 2, within=30)
    hung = [the(cluster, "ray::ServeReplica"), the(cluster, "ray::SupervisorActor")]
    with traffic(cluster.url, "echo", CALLERS) as seen:
        for process in hung:
            process.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        until(lambda: not any(map(is_alive, hung)), within=60)
        until(lambda: len(cluster.named("ray::ServeReplica")) == 2, within=30)
        launch(cluster, "after")
        recovered = time.monotonic() - stopped
    print(f"\none of two ingresses and the supervisor hang: {seen}, both replaced after {recovered:.1f} s")
    assert only_closed(seen), seen.failures
    assert f"(pid {hung[0].pid}) has hung" in events(cluster) and f"(pid {hung[1].pid}) has hung" in events(cluster)


def test_ingresses_that_start_while_the_supervisor_hangs_serve_from_the_last_table(cluster: LiveCluster) -> None:
    until(lambda: sum(beat.kind == "ingress" for beat in beats(Place(cluster.settings).beats)) == 2, within=30)
    supervisor = the(cluster, "ray::SupervisorActor")
    supervisor.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    for process in cluster.named("ray::ServeReplica"):
        process.kill()
    # It waits in the sockets that the watchdog holds, until an ingress takes it.
    answer = cluster.post("/v1/infer", {"model": "echo", "items": ["x"]}, timeout=30)
    answered = time.monotonic() - stopped
    is_hung = is_alive(supervisor)
    print(f"\nboth ingresses killed while the supervisor hangs: {answer.status_code} after {answered:.1f} s")
    assert answer.status_code == 200, answer.text
    assert is_hung, "the next supervisor may have been asked"
    until(lambda: not is_alive(supervisor), within=60)
    launch(cluster, "after")


def test_rays_node_process_killed_takes_all_along_and_callers_wait(
    cluster: LiveCluster,
) -> None:
    (worker,) = cluster.worker_pids("echo")
    # An ingress that ends closes connections on which nothing is asked: whoever asks just then gets no answer, and asks
    # again. These callers ask sooner.
    with traffic(cluster.url, "echo", CALLERS, pause_s=0.03) as seen:
        the(cluster, "raylet/raylet").kill()
        killed = time.monotonic()
        until(lambda: "Serving again" in events(cluster), within=90)
        answered = seen.ok
        until(lambda: seen.ok > answered, within=30)
        recovered = time.monotonic() - killed
    print(f"\nraylet killed: {seen}, answers again after {recovered:.1f} s")
    # Each connection ends with an answer, and the next one waits for the next ingress.
    assert seen.failures == []
    assert worker not in cluster.worker_pids("echo")
    assert "Ray's node process ended; everything is started again." in events(cluster)


def test_a_second_start_of_one_home_is_refused_and_harms_nothing(cluster: LiveCluster) -> None:
    with traffic(cluster.url, "echo", CALLERS) as seen:
        for words in ((), ("--port", "1")):
            done = cluster.command("up", "--detach", *words)
            assert done.returncode == 11 and f"runs already, at {cluster.url}" in done.stderr
    assert seen.failures == []


def test_the_watchdog_killed_costs_nothing_and_the_next_start_watches_on(cluster: LiveCluster) -> None:
    watchdog, gcs = the(cluster, "cluster.runtime.watchdog"), the(cluster, "gcs_server")
    with traffic(cluster.url, "echo", CALLERS) as seen:
        watchdog.kill()
        watchdog.wait(10)
        done = cluster.command("up", "--detach")
        assert done.returncode == 0 and "it was already running and is watched again" in done.stderr
        gcs.kill()
        until(lambda: [other for other in cluster.named("gcs_server") if other.pid != gcs.pid], within=20)
        launch(cluster, "after")
    print(f"\nwatchdog killed, then the GCS: {seen}")
    assert seen.failures == []


@pytest.fixture
def forking(tmp_path: Path) -> Iterator[LiveCluster]:
    cluster = LiveCluster(tmp_path)
    cluster.up()
    yield cluster
    cluster.down()


def test_the_fork_server_killed_costs_no_request_and_no_launch(forking: LiveCluster) -> None:
    cluster = forking
    launch(cluster, "echo")
    (server,) = until(lambda: cluster.named("cluster.runtime.forkserver"), within=30)
    place = Place(cluster.settings)
    until((place.private / "fork.sock").exists, within=60)

    def is_forked(uid: str) -> bool:
        launch(cluster, uid)
        return bool(server.children())

    # Processes that were started in advance are used first.
    until(lambda: is_forked("forked"), within=90)
    # When a worker is killed, only that worker ends.
    launch(cluster, "forked-too")
    assert is_alive(server)
    with traffic(cluster.url, "echo", CALLERS) as seen:
        server.kill()
        killed = time.monotonic()
        # When a process ends, its memory is freed first and its socket closed last.
        until(lambda: not is_alive(server), within=10)
        launch(cluster, "after")
        recovered = time.monotonic() - killed
        until(lambda: [other for other in cluster.named("cluster.runtime.forkserver") if other != server], within=30)
    print(f"\nfork server killed: {seen}, launches work again after {recovered:.1f} s")
    assert seen.failures == [] and recovered < 30
