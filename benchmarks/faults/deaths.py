"""Processes that die, stop or are cut off, nodes that vanish, and memory that runs out."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx

from benchmarks.faults.rows import Bench, Outcome, kill, must, not_applicable, row
from cluster.runtime import node_memory
from cluster.status import ModelState
from tests.live import LiveCluster, is_alive, until

READY = ModelState.READY
#: Within this time Ray's own processes are promised to be back.
BACK_S = 30.0
CGROUP = Path("/sys/fs/cgroup/memory")


@row(1, "only worker, kill -9 while idle")
def worker_while_idle(bench: Bench, outcome: Outcome) -> None:
    bench.launch("one")
    (pid,) = bench.cluster.worker_pids("one")
    killed = kill(pid)
    answer = bench.infer("one", "x")
    outcome.ok, outcome.held = int(answer.status_code == 200), 1
    must(answer.status_code == 200, answer.text)
    bench.back(outcome, lambda: bench.cluster.worker_pids("one") not in ([], [pid]), within=30, since=killed)


@row(2, "one of two workers, kill -9 with requests in it")
def worker_in_flight(bench: Bench, outcome: Outcome) -> None:
    bench.launch("two", replica=2)
    before = bench.cluster.worker_pids("two")
    with bench.traffic("two", outcome, callers=32):
        killed = kill(before[0])
        bench.back(
            outcome,
            lambda: before[0] not in (now := bench.cluster.worker_pids("two")) and len(now) == 2,
            within=30,
            since=killed,
        )


@row("2b", "only worker, kill -9 with requests in it")
def only_worker_in_flight(bench: Bench, outcome: Outcome) -> None:
    bench.launch("one")
    (pid,) = bench.cluster.worker_pids("one")
    with bench.traffic("one", outcome, callers=8):
        killed = kill(pid)
        bench.back(outcome, lambda: bench.cluster.worker_pids("one") not in ([], [pid]), within=30, since=killed)


@row(3, "worker, kill -9 within a stream of events")
def worker_mid_stream(bench: Bench, outcome: Outcome) -> None:
    bench.launch("paints", model_name="painting", step_seconds=0.1)
    (pid,) = bench.cluster.worker_pids("paints")
    body = {"model": "paints", "prompt": "a", "stream": True, "partial_images": 2, "size": "64x64"}
    body["num_inference_steps"] = 60
    text, killed = "", 0.0
    with httpx.stream("POST", f"{bench.cluster.url}/v1/images/generations", json=body, timeout=60) as answer:
        must(answer.status_code == 200, str(answer.status_code))
        time.sleep(3)
        killed = kill(pid)
        for part in answer.iter_text():
            text += part
    outcome.seconds = time.monotonic() - killed
    if "completed" in text:
        outcome.ok = outcome.held = 1
        outcome.say("begun again on the next worker, and finished")
        return
    must("error" in text, f"the stream ended as if all were well: {text[-160:]!r}")
    must(outcome.seconds < 2, f"the stream ended after {outcome.seconds:.1f} s with {text[-160:]!r}")


not_applicable(4, "child process of an engine killed", "no family has its engine in a process of its own yet")


@row(5, "a node is lost")
def node_lost(bench: Bench, outcome: Outcome) -> None:
    cluster = bench.cluster
    node = cluster.add_node(ip="127.0.0.4")
    bench.launch("free", replica=3)
    with cluster.client() as client:
        must("127.0.0.4" in {worker.node for worker in client.status("free").workers}, "nothing was placed there")
        with bench.traffic("free", outcome):
            lost = time.monotonic()
            cluster.lose_node(node)
            bench.back(
                outcome,
                lambda: (s := client.status("free")).state == READY and {w.node for w in s.workers} == {"127.0.0.1"},
                within=60,
                since=lost,
            )


@row(6, "three of four nodes vanish at once")
def storm(bench: Bench, outcome: Outcome) -> None:
    cluster = bench.cluster
    nodes = [cluster.add_node(ip=f"127.0.0.{number}") for number in (5, 6, 7)]
    bench.launch("spread", replica=4)
    with bench.traffic("spread", outcome), cluster.client() as client:
        must(len({worker.node for worker in client.status("spread").workers}) == 4, "not one on each node")
        lost = time.monotonic()
        for node in nodes:
            cluster.lose_node(node)

        def is_whole() -> bool:
            status = client.status("spread")
            return status.state == READY and [worker.node for worker in status.workers] == ["127.0.0.1"] * 4

        bench.back(outcome, is_whole, within=120, since=lost)


@row(7, "a node stands still until it is given up, then goes on")
def partition(bench: Bench, outcome: Outcome) -> None:
    cluster = bench.cluster
    node = cluster.add_node(ip="127.0.0.8")
    import psutil

    bench.launch("torn", replica=2)
    family = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
    try:
        with bench.traffic("torn", outcome), cluster.client() as client:
            cut = time.monotonic()
            for process in family:
                process.suspend()
            gone = lambda: "127.0.0.8" not in {row["ip_address"] for row in client.cluster_info()}  # noqa: E731
            bench.back(outcome, gone, within=120, since=cut)
            until(lambda: len(cluster.worker_pids("torn")) == 2, within=30)
            for process in family:
                with suppress(psutil.Error):
                    process.resume()
            time.sleep(5)
            must(len(client.status("torn").workers) == 2, "more than one owner")
            left = [process for process in family if is_alive(process) and "WorkerActor" in "".join(process.cmdline())]
            must(not left, f"{len(left)} workers of the lost node live on")
    finally:
        for process in family:
            with suppress(psutil.Error):
                process.resume()
        cluster.lose_node(node)


@row(8, "one of two workers stands still (SIGSTOP)")
def worker_stopped(bench: Bench, outcome: Outcome) -> None:
    bench.launch("two", replica=2)
    before = bench.cluster.worker_pids("two")
    with bench.traffic("two", outcome) as seen:
        stopped = kill(before[0], signal.SIGSTOP)
        bench.back(
            outcome,
            lambda: before[0] not in (now := bench.cluster.worker_pids("two")) and len(now) == 2,
            within=180,
            since=stopped,
        )
    outcome.say(f"longest call {seen.longest_s:.1f} s")
    must(seen.longest_s < 15, f"a caller waited {seen.longest_s:.0f} s")


@row(9, "supervisor, kill -9")
def supervisor(bench: Bench, outcome: Outcome) -> None:
    bench.launch("kept", replica=2)
    pids = bench.cluster.worker_pids("kept")
    with bench.traffic("kept", outcome, callers=32):
        killed = kill(bench.cluster.named("ray::SupervisorActor")[0].pid)
        bench.launch("after")
        outcome.seconds = time.monotonic() - killed
    must(bench.cluster.worker_pids("kept") == pids, "workers were not adopted")


@row("9b", "supervisor stands still (SIGSTOP)")
def supervisor_stopped(bench: Bench, outcome: Outcome) -> None:
    bench.launch("kept", replica=2)
    pids = bench.cluster.worker_pids("kept")
    with bench.traffic("kept", outcome):
        stopped = kill(bench.cluster.named("ray::SupervisorActor")[0].pid, signal.SIGSTOP)
        bench.back(outcome, lambda: _launches(bench, "after"), within=120, since=stopped)
    must(bench.cluster.worker_pids("kept") == pids, "workers were not adopted")


def _launches(bench: Bench, uid: str) -> bool:
    with suppress(Exception):
        body = {"model_name": "echo", "model_type": "echo", "model_uid": uid}
        return bench.cluster.post("/v1/models", body, timeout=10).status_code == 200
    return False


SECOND = """
import sys, asyncio, ray, json
from cluster.runtime.supervisor_actor import _remote_supervisor
from cluster.settings import Settings
settings = Settings()
ray.init(address=sys.argv[1], namespace=settings.namespace, log_to_driver=False, logging_level="ERROR")
second = _remote_supervisor.options(name="second", namespace=settings.namespace).remote(settings)
ray.get(second.all_statuses.remote(), timeout=60)
sys.stdin.readline()
"""


@row(10, "two supervisors at once")
def two_supervisors(bench: Bench, outcome: Outcome) -> None:
    from cluster.runtime.launcher import Place

    cluster = bench.cluster
    bench.launch("owned", replica=2)
    pids = cluster.worker_pids("owned")
    state = Place(cluster.settings).read()
    assert state is not None
    with bench.traffic("owned", outcome):
        variables = {**cluster.ray_environment(), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        other = subprocess.Popen([sys.executable, "-c", SECOND, state["address"]], env=variables, stdin=subprocess.PIPE)
        time.sleep(15)
        must(other.poll() is None, "the second supervisor did not come up")
        must(cluster.worker_pids("owned") == pids, "workers were replaced")
        must(len(cluster.named("ray::WorkerActor")) == 2, "there are workers of two owners")
        ended = time.monotonic()
        other.communicate(b"\n", timeout=30)
        bench.back(outcome, lambda: _launches(bench, "after"), within=60, since=ended)
    must(cluster.worker_pids("owned") == pids, "workers were replaced")


@row(11, "rows of the store that nobody can read, and the supervisor is killed")
def bad_records(bench: Bench, outcome: Outcome) -> None:
    bench.launch("good", replica=2)
    pids = bench.cluster.worker_pids("good")
    with bench.traffic("good", outcome):
        with sqlite3.connect(bench.cluster.settings.store, timeout=10) as store:
            for key, text in (("half", '{"uid": "half"'), ("strange", '{"uid": "strange", "spec": 7}')):
                store.execute("insert into wishes (kind, key, value) values ('wish', ?, ?)", (key, text))
        killed = kill(bench.cluster.named("ray::SupervisorActor")[0].pid)
        bench.back(outcome, lambda: _launches(bench, "after"), within=30, since=killed)
    must(bench.cluster.worker_pids("good") == pids, "workers were not adopted")
    told = bench.events("strange")
    with sqlite3.connect(bench.cluster.settings.store, timeout=10) as store:
        store.execute("delete from wishes where key in ('half', 'strange')")
    must("cannot be read" in told or "version" in told, f"nobody is told: {told!r}")


@row(12, "everything, kill -9, then `cluster up`")
def everything(bench: Bench, outcome: Outcome) -> None:
    bench.launch("first", replica=2)
    bench.launch("second")
    bench.cluster.kill_everything()
    cluster = bench._shared
    assert cluster is not None
    started = time.monotonic()
    cluster.up()
    bench.back(outcome, lambda: bench.state("first") == bench.state("second") == READY, within=60, since=started)
    outcome.ok += bench.infer("first", "x").status_code == 200


not_applicable(13, "head restarts with Redis", "no Redis on this machine; tests/k8s/test_faults.py has a head's end")


@row(14, "GCS, kill -9 during a launch")
def gcs_during_launch(bench: Bench, outcome: Outcome) -> None:
    bench.submit("slow", load_seconds=5)
    until(lambda: bench.state("slow") == ModelState.LOADING, within=10)
    killed = kill(bench.cluster.named("gcs_server")[0].pid)
    bench.back(outcome, lambda: bench.state("slow") == READY, within=90, since=killed)


def _system_process(bench: Bench, outcome: Outcome, word: str) -> None:
    """Kills one of the system's processes: no call may fail, and everything must be back in time."""
    bench.launch("served", replica=2)
    with bench.traffic("served", outcome):
        killed = kill(bench.cluster.named(word)[0].pid)
        bench.back(outcome, lambda: _launches(bench, "after") and _serves(bench, "served"), within=90, since=killed)
    must(outcome.seconds is not None and outcome.seconds < BACK_S, f"back after {outcome.seconds:.1f} s")


def _serves(bench: Bench, uid: str) -> bool:
    with suppress(Exception):
        return len(bench.cluster.worker_pids(uid)) == 2 and bench.infer(uid, "x", timeout=5).status_code == 200
    return False


@row(47, "GCS, kill -9")
def gcs(bench: Bench, outcome: Outcome) -> None:
    _system_process(bench, outcome, "gcs_server")


@row(48, "raylet, kill -9")
def raylet(bench: Bench, outcome: Outcome) -> None:
    _system_process(bench, outcome, "raylet/raylet")


@row(49, "Ray's DashboardAgent, kill -9")
def dashboard_agent(bench: Bench, outcome: Outcome) -> None:
    if not bench.cluster.named("ray::DashboardAgent"):
        outcome.say("it is not run: nothing here needs it")
        return
    _system_process(bench, outcome, "ray::DashboardAgent")


@row(50, "Ray's RuntimeEnvAgent, kill -9")
def runtime_env_agent(bench: Bench, outcome: Outcome) -> None:
    _system_process(bench, outcome, "ray::RuntimeEnvAgent")


@row(51, "Ray Serve's controller, kill -9")
def serve_controller(bench: Bench, outcome: Outcome) -> None:
    _system_process(bench, outcome, "ray::ServeController")


@row(52, "the watchdog that `cluster up` leaves, kill -9")
def watchdog(bench: Bench, outcome: Outcome) -> None:
    words = [process for process in bench.cluster.named("cluster.") if "ray::" not in " ".join(process.cmdline())]
    must(words, "there is none")
    bench.launch("served", replica=2)
    with bench.traffic("served", outcome):
        for process in words:
            kill(process.pid)
        time.sleep(5)
    outcome.ok += _launches(bench, "after")
    must(_serves(bench, "served"), "does not serve")


HOG = "import sys\nheld = []\nfor line in sys.stdin:\n held.append(b'x' * 10**8)\n print(1, flush=True)"


@row(15, "a foreign process takes the memory of the container")
def memory(bench: Bench, outcome: Outcome) -> None:
    """In a control group with a memory limit, where this user may make one; elsewhere the floor is set high instead."""
    own = next((line for line in Path("/proc/self/cgroup").read_text().split() if ":memory:" in line), "::/")
    before = CGROUP / own.split(":", 2)[2].lstrip("/")
    group = CGROUP / f"faults-{os.getpid()}"
    variables = {}
    try:
        group.mkdir()
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:
        variables["CLUSTER_MEMORY_FLOOR_BYTES"] = str(node_memory.read().available_bytes - 2 * 10**9)
    try:
        with bench.own(**variables) as cluster:
            _take_memory(bench, outcome, cluster, group if not variables else None)
    finally:
        with suppress(OSError):
            (before / "cgroup.procs").write_text(str(os.getpid()))
            time.sleep(1)
            group.rmdir()


def _take_memory(bench: Bench, outcome: Outcome, cluster: LiveCluster, group: Path | None) -> None:
    bench.launch("grown", cluster)
    bench.launch("other", cluster, replica=2)
    cluster.post("/v1/infer", {"model": "grown", "items": [{"hold": 500 * 10**6}]}).raise_for_status()
    pids = cluster.worker_pids("other")
    (grown,) = cluster.worker_pids("grown")
    words = ("ray::SupervisorActor", "ray::ServeReplica", "ray::ServeController", "gcs_server", "raylet")
    before = {process.pid for word in words for process in cluster.named(word)}
    if group is not None:
        usage = int((group / "memory.usage_in_bytes").read_text())
        (group / "memory.limit_in_bytes").write_text(str(usage + 3 * 10**9))
    time.sleep(3)
    hog = subprocess.Popen([sys.executable, "-c", HOG], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    try:
        assert hog.stdin is not None and hog.stdout is not None
        with bench.traffic("other", outcome, cluster=cluster):
            for _ in range(60):
                if "HOST_OOM" in bench.events("grown", cluster) or not is_alive_pid(grown):
                    break
                hog.stdin.write(b"\n")
                hog.stdout.readline()
            until(lambda: "HOST_OOM" in bench.events("grown", cluster), within=15, why="no event says HOST_OOM")
            hog.kill()
            freed = time.monotonic()
            with cluster.client() as client:
                bench.back(outcome, lambda: client.status("grown").state == READY, within=60, since=freed)
    finally:
        hog.kill()
    after = {process.pid for word in words for process in cluster.named(word)}
    must(before == after, "the control plane was hit")
    must(cluster.worker_pids("other") == pids, "other models were hit")
    outcome.say("limit of a control group" if group is not None else "floor by a setting")


def is_alive_pid(pid: int) -> bool:
    import psutil

    with suppress(psutil.Error):
        return is_alive(psutil.Process(pid))
    return False


for number, fault in (
    (16, "CUDA out of memory in a request"),
    (17, "CUDA out of memory at load"),
    (18, "CUDA error that stays"),
):
    not_applicable(number, fault, "needs a GPU")
not_applicable(40, "process without an owner on a GPU", "needs a GPU")
not_applicable(41, "a foreign process takes the memory of a GPU", "needs a GPU")


@row(43, "one of two ingresses, kill -9")
def ingress(bench: Bench, outcome: Outcome) -> None:
    with bench.own(CLUSTER_INGRESS_REPLICAS="2") as cluster:
        bench.launch("asked", cluster)
        before = {process.pid for process in cluster.named("ray::ServeReplica")}
        must(len(before) == 2, f"{len(before)} ingresses")
        killed = kill(min(before))

        def are_two_again() -> bool:
            # Each call has a connection of its own, because open connections to the killed ingress are lost.
            answer = cluster.post("/v1/infer", {"model": "asked", "items": ["x"]})
            outcome.ok += answer.status_code == 200
            outcome.failed += answer.status_code != 200
            return len({process.pid for process in cluster.named("ray::ServeReplica")} - {min(before)}) == 2

        bench.back(outcome, are_two_again, within=30, since=killed)


@row("43b", "an ingress stands still (SIGSTOP)")
def ingress_stopped(bench: Bench, outcome: Outcome) -> None:
    bench.launch("asked", replica=2)
    stopped_pid = min(process.pid for process in bench.cluster.named("ray::ServeReplica"))
    stopped = kill(stopped_pid, signal.SIGSTOP)
    silent = 0.0

    def answers() -> bool:
        nonlocal silent
        started = time.monotonic()
        try:
            answer = bench.cluster.post("/v1/infer", {"model": "asked", "items": ["x"]}, timeout=5)
            outcome.ok += answer.status_code == 200
        except httpx.HTTPError:
            outcome.held += 1
        silent = max(silent, time.monotonic() - started)
        return stopped_pid not in {process.pid for process in bench.cluster.named("ray::ServeReplica")}

    bench.back(outcome, answers, within=150, since=stopped)
    for _ in range(20):
        must(bench.infer("asked", "x").status_code == 200, "does not serve")
    must(outcome.seconds is not None and outcome.seconds < 30, f"replaced after {outcome.seconds:.0f} s")
    outcome.say(json.dumps({"connections that reached it": outcome.held}))
