"""Launches, updates and weights that go wrong, or come at the wrong moment."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from benchmarks.faults.deaths import READY, _launches
from benchmarks.faults.rows import Bench, Outcome, kill, must, not_applicable, row
from benchmarks.workloads import RERANK, WEIGHTS
from cluster import AsyncClient, Client, errors
from cluster.status import ModelState
from tests.hub import Hub
from tests.live import LiveCluster, until

FILES = {path.name: path.read_bytes() for path in WEIGHTS[RERANK].iterdir() if path.is_file()}


@contextmanager
def hub_cluster(bench: Bench, home: Path | None = None) -> Iterator[tuple[Hub, LiveCluster]]:
    """A hub with one small reranker, and a cluster that downloads from this hub only."""
    with Hub() as hub:
        hub.add("org/tiny", FILES)
        with bench.own(home=home, HF_ENDPOINT=hub.url) as cluster:
            register(cluster, "tiny", "org/tiny")
            yield hub, cluster


def register(cluster: LiveCluster, name: str, repository: str) -> None:
    specs = [{"model_format": "pytorch", "model_hub": "huggingface", "model_id": repository, "quantization": "none"}]
    entry = {"version": 2, "model_name": name, "type": "normal", "language": ["en"], "max_tokens": 512}
    body = {"model": json.dumps({**entry, "model_specs": specs}), "persist": True}
    answer = cluster.post("/v1/model_registrations/rerank", body)
    must(answer.status_code == 200, answer.text)


def submit(cluster: LiveCluster, uid: str, name: str, **fields: Any) -> None:
    body = {"model_name": name, "model_type": "rerank", "model_uid": uid, **fields}
    answer = cluster.post("/v1/models?wait_ready=false", body)
    must(answer.status_code == 200, answer.text)


def state(cluster: LiveCluster, uid: str) -> Any:
    with cluster.client() as client:
        return client.status(uid)


@row(24, "disk full during a download")
def full_disk(bench: Bench, outcome: Outcome) -> None:
    home = Path(mkdtemp(prefix="small-"))
    must(subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "small", str(home)]).returncode == 0, "no tmpfs")
    try:
        with hub_cluster(bench, home) as (hub, cluster):
            hub.add("org/large", {**FILES, "model.safetensors": os.urandom(80_000_000)})
            register(cluster, "large", "org/large")
            bench.launch("other", cluster)
            with bench.traffic("other", outcome, cluster=cluster):
                submit(cluster, "large", "large")
                status = until(lambda: (s := state(cluster, "large")).reason and s, within=60)
                must("space" in status.reason or "disk" in status.reason.lower(), status.reason)
            outcome.say(status.reason[:200])
            submit(cluster, "tiny", "tiny")
            until(lambda: state(cluster, "tiny").state == READY, within=60)
            kill(cluster.named("ray::SupervisorActor")[0].pid)
            killed = time.monotonic()
            bench.back(outcome, lambda: state_or_none(cluster, "other") == READY, within=30, since=killed)
    finally:
        subprocess.run(["umount", "-l", str(home)])


def state_or_none(cluster: LiveCluster, uid: str) -> ModelState | None:
    with suppress(Exception):
        return state(cluster, uid).state
    return None


def damaged_copy(folder: Path) -> Path:
    """A copy of the reranker with a damaged header in its weights."""
    copy = folder / "damaged"
    shutil.copytree(WEIGHTS[RERANK], copy)
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[8:24] = bytes(byte ^ 0xFF for byte in data[8:24])
    weights.write_bytes(data)
    return copy


@row(25, "corrupt weights")
def corrupt(bench: Bench, outcome: Outcome) -> None:
    bench.launch("other")
    copy = damaged_copy(Path(mkdtemp(dir=bench.folder)))
    with bench.traffic("other", outcome):
        body = {"model_name": "ce-tiny", "model_type": "rerank", "model_uid": "corrupt", "model_path": str(copy)}
        answer = bench.cluster.post("/v1/models?wait_ready=false", body)
        if answer.status_code == 200:
            status = until(lambda: (s := state(bench.cluster, "corrupt")).state == ModelState.FAILED and s, within=60)
            time.sleep(5)
            must(state(bench.cluster, "corrupt").restarts == 0, "tried again and again")
            outcome.say(status.reason[:160])
        else:
            must("fetch it again" in answer.text, answer.text)
            outcome.say(f"refused with {answer.status_code}")


@row(26, "worker, kill -9 in the middle of a download")
def half_downloaded(bench: Bench, outcome: Outcome) -> None:
    with hub_cluster(bench) as (hub, cluster):
        hold = hub.hold("model.safetensors", 400_000)
        submit(cluster, "tiny", "tiny")
        must(hold.reached.wait(30), "the download did not begin")
        killed = kill(cluster.named("ray::WorkerActor")[0].pid)
        hold.released.set()
        bench.back(outcome, lambda: state(cluster, "tiny").state == READY, within=60, since=killed)
        twice = 2 * len(FILES["model.safetensors"])
        must(hub.served["model.safetensors"] < twice, "all of it was fetched again")


@row(27, "hub gone, weights on disk")
def hub_gone(bench: Bench, outcome: Outcome) -> None:
    with hub_cluster(bench) as (hub, cluster):
        submit(cluster, "tiny", "tiny")
        until(lambda: state(cluster, "tiny").state == READY, within=60)
        hub.stop()
        (pid,) = cluster.worker_pids("tiny")
        killed = kill(pid)
        bench.back(outcome, lambda: cluster.worker_pids("tiny") not in ([], [pid]), within=60, since=killed)


@row(28, "fifty launches of one uid at once, ten of them of another spec")
def same_uid(bench: Bench, outcome: Outcome) -> None:
    async def many() -> list[object]:
        async with AsyncClient(bench.cluster.url) as client:
            asked = [{}] * 40 + [{"steps": 9}] * 10
            calls = [client.launch_model("echo", model_type="echo", model_uid="same", **more) for more in asked]
            return await asyncio.gather(*calls, return_exceptions=True)

    started = time.monotonic()
    answers = asyncio.run(many())
    outcome.seconds = time.monotonic() - started
    outcome.ok = answers.count("same")
    strange = [answer for answer in answers if answer != "same" and not isinstance(answer, errors.Conflict)]
    outcome.failed = len(strange)
    must(not strange, str(strange[:1]))
    must(len(bench.cluster.named("ray::WorkerActor")) == 1, "more than one worker")


def _claims(client: Client) -> int:
    return sum(row["workers"] for row in client.cluster_info())


@row(29, "terminate while starting, loading, READY, failed")
def terminate(bench: Bench, outcome: Outcome) -> None:
    phases: dict[str, dict[str, Any]] = {
        "at once": {},
        ModelState.LOADING: {"load_seconds": 60},
        ModelState.READY: {},
        ModelState.FAILED: {"load_error": "no"},
    }
    for phase, options in phases.items():
        bench.submit("gone", **options)
        if phase != "at once":
            until(lambda: bench.state("gone") == phase, within=30)  # noqa: B023
        asked = time.monotonic()
        with bench.cluster.client() as client:
            client.terminate_model("gone")
            until(lambda: not bench.cluster.named("ray::WorkerActor"), within=10, why=f"{phase}: a process is left")
            until(lambda: not _claims(client), within=10, why=f"{phase}: a claim is left")
        outcome.seconds = max(outcome.seconds or 0.0, time.monotonic() - asked)


@row(30, "the node of a launch is lost while it loads")
def node_of_launch(bench: Bench, outcome: Outcome) -> None:
    node = bench.cluster.add_node(ip="127.0.0.9")
    bench.submit("moves", replica=2, load_seconds=6)
    with bench.cluster.client() as client:
        until(lambda: client.status("moves").state == ModelState.LOADING, within=10)
        must("127.0.0.9" in {worker.node for worker in client.status("moves").workers}, "nothing was placed there")
        lost = time.monotonic()
        bench.cluster.lose_node(node)
        bench.back(outcome, lambda: len(bench.cluster.worker_pids("moves")) == 2, within=60, since=lost)


@row(31, "scale from 3 to 1 with requests in them")
def scale_down(bench: Bench, outcome: Outcome) -> None:
    bench.launch("shrinks", replica=3)
    with bench.traffic("shrinks", outcome, callers=32), bench.cluster.client() as client:
        asked = time.monotonic()
        client.scale("shrinks", 1)
        bench.back(outcome, lambda: len(bench.cluster.worker_pids("shrinks")) == 1, within=40, since=asked)


@row(32, "300 calls at once to a model that is loading")
def herd(bench: Bench, outcome: Outcome) -> None:
    bench.submit("cold", load_seconds=4)
    until(lambda: bench.state("cold") == ModelState.LOADING, within=15)
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda number: bench.infer("cold", str(number)), range(300)))
    outcome.ok = sum(answer.status_code == 200 for answer in answers)
    refused = [answer for answer in answers if answer.status_code in (429, 503)]
    outcome.say(f"{len(refused)} told to come back")
    outcome.failed = len(answers) - outcome.ok - len(refused)
    must(all("retry-after" in answer.headers for answer in refused), "not told when to come back")
    until(lambda: bench.state("cold") == READY, within=30)
    must(len(bench.cluster.named("ray::WorkerActor")) == 1, "more than one load")


not_applicable(33, "eviction thrash", "nothing is evicted: models do not rest yet")


@row(36, "a wish of a later version in the store, and the supervisor restarts")
def later_version(bench: Bench, outcome: Outcome) -> None:
    bench.launch("later", replica=2)
    pids = bench.cluster.worker_pids("later")
    with sqlite3.connect(bench.cluster.settings.store, timeout=10) as store:
        query = "select value from wishes where kind = 'wish' and key = 'later'"
        ((text,),) = store.execute(query)
        value = json.loads(text)
        value["spec"]["option_of_tomorrow"] = {"kind": 7}
        store.execute("update wishes set value = ? where kind = 'wish' and key = 'later'", (json.dumps(value),))
    with bench.traffic("later", outcome):
        killed = kill(bench.cluster.named("ray::SupervisorActor")[0].pid)
        bench.back(outcome, lambda: _launches(bench, "after"), within=30, since=killed)
        time.sleep(3)
    left = [process.pid for process in bench.cluster.named("ray::WorkerActor")]
    with sqlite3.connect(bench.cluster.settings.store, timeout=10) as store:
        store.execute("update wishes set value = ? where kind = 'wish' and key = 'later'", (text,))
    kill(bench.cluster.named("ray::SupervisorActor")[0].pid)
    until(lambda: bench.state("later") is not None, within=30)
    must(set(pids) <= set(left), "its workers were ended")


def _update(bench: Bench, uid: str, **fields: Any) -> None:
    with bench.cluster.client() as client:
        client.apply(
            [{"model_name": "echo", "model_type": "echo", "model_uid": uid, **fields}], prune=False, dry_run=False
        )


@row(37, "update with room for both")
def update(bench: Bench, outcome: Outcome) -> None:
    bench.launch("changing", replica=2)
    with bench.traffic("changing", outcome, callers=32), bench.cluster.client() as client:
        asked = time.monotonic()
        _update(bench, "changing", replica=2, steps=2)
        generation = client.status("changing").generation
        bench.back(
            outcome,
            lambda: (
                (s := client.status("changing")).state == READY and {w.generation for w in s.workers} == {generation}
            ),
            within=60,
            since=asked,
        )


@row(38, "update with room for one of both")
def update_without_room(bench: Bench, outcome: Outcome) -> None:
    with bench.cluster.client() as client:
        room = int(client.cluster_info(detailed=True)[0]["mem_total"] * bench.cluster.settings.memory_fraction)
        bench.launch("fills")
        with bench.traffic("fills", outcome, callers=8):
            asked = time.monotonic()
            # All memory but a quarter of what the running worker claims, so that it fits only when that one is gone.
            held = client.status("fills").workers[0].claim_bytes
            _update(bench, "fills", memory=str(room - held // 4), steps=2)
            generation = client.status("fills").generation
            bench.back(
                outcome,
                lambda: (
                    (s := client.status("fills")).state == READY and {w.generation for w in s.workers} == {generation}
                ),
                within=60,
                since=asked,
            )


@row(39, "an update that cannot be loaded, and then the old worker dies")
def bad_update(bench: Bench, outcome: Outcome) -> None:
    bench.launch("updated")
    with bench.traffic("updated", outcome, callers=8), bench.cluster.client() as client:
        _update(bench, "updated", load_error="no such luck")
        until(lambda: client.status("updated").error_code, within=30)
        (pid,) = bench.cluster.worker_pids("updated")
        killed = kill(pid)
        bench.back(
            outcome,
            lambda: set(bench.cluster.worker_pids("updated")) - {pid},
            within=30,
            since=killed,
            why="the last version that worked is not started again",
        )
        must("no such luck" in client.status("updated").reason, client.status("updated").reason)


@row(42, "port taken, few file descriptors, /dev/shm full")
def scarce(bench: Bench, outcome: Outcome) -> None:
    cluster = bench.cluster
    other = LiveCluster(Path(mkdtemp(dir=bench.folder)), CLUSTER_PORT=str(cluster.port))
    done = other.command("up", "--detach")
    must(done.returncode and "Traceback" not in done.stderr and str(cluster.port) in done.stderr, done.stderr[-200:])
    few = LiveCluster(Path(mkdtemp(dir=bench.folder)))
    done = subprocess.run(
        ["bash", "-c", 'ulimit -n 256; exec "$@"', "up", *few.command_line("up", "--detach")],
        env=few.environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    with suppress(Exception):
        few.down()
    must("Traceback" not in done.stderr, done.stderr[-300:])
    must("descriptor" in done.stderr or "ulimit" in done.stderr or "open files" in done.stderr, done.stderr[-300:])
    must(cluster.get("/health").status_code == 200, "the first was disturbed")


@row(45, "folder of the logs gone, and nobody can write there")
def logs_gone(bench: Bench, outcome: Outcome) -> None:
    bench.launch("served", replica=2)
    with bench.traffic("served", outcome):
        shutil.rmtree(bench.cluster.home / "logs", ignore_errors=True)
        (bench.cluster.home / "logs").write_text("a file where a folder was")
        started = time.monotonic()
        bench.launch("after")
        outcome.seconds = time.monotonic() - started
    (bench.cluster.home / "logs").unlink()
    (bench.cluster.home / "logs").mkdir()


not_applicable(35, "the clock jumps", "would move the clock of the whole machine; tests turn a clock of their own")
not_applicable(44, "a slow database", "there is none: wishes are in a file")
not_applicable(46, "a week of churn", "`python -m benchmarks.soak` does minutes of it")
