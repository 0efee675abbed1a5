"""Launches, kills, updates and ends models for minutes under traffic, and counts what is left behind.

python -m benchmarks.soak --minutes 1
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import psutil

from cluster import errors
from cluster.status import ModelState
from tests.faults.traffic import traffic
from tests.live import LiveCluster, until

#: Rounds before the first count: what is opened once is opened by then.
WARM_ROUNDS = 2
#: So much more is no leak: connections come and go.
SLACK_FILES = 12
#: Of processes that are there from beginning to end.
LASTING = (
    "gcs_server",
    "raylet",
    "ray::SupervisorActor",
    "ray::ServeController",
    "ray::ServeReplica",
    "ray::Dashboard",
)


@dataclass(frozen=True)
class Count:
    processes: int
    claims: int
    claimed_bytes: int
    sockets: int
    files: dict[int, int]
    resident: dict[int, int]
    names: dict[int, str]


def count(cluster: LiveCluster) -> Count:
    files, resident, names = {}, {}, {}
    processes = cluster.processes()
    sockets = 0
    for process in processes:
        with suppress(psutil.Error):
            name = " ".join(process.cmdline())
            word = next((word for word in LASTING if word in name), None)
            sockets += sum(connection.status == psutil.CONN_LISTEN for connection in process.net_connections("inet"))
            if word:
                files[process.pid], resident[process.pid] = process.num_fds(), process.memory_info().rss
                names[process.pid] = word
    with cluster.client() as client:
        rows = client.cluster_info(detailed=True)
    workers = sum(row["workers"] for row in rows)
    return Count(len(processes), workers, sum(row["mem_claimed"] for row in rows), sockets, files, resident, names)


class Churn:
    """What is done to a cluster, one thing after the other."""

    def __init__(self, cluster: LiveCluster, seed: int) -> None:
        self._cluster = cluster
        self._client = cluster.client()
        self._random = random.Random(seed)
        self._numbers = itertools.count()
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []

    def round(self) -> None:
        steps: list[Callable[[], None]] = [
            self.launch_and_end,
            self.end_while_loading,
            self.kill_worker,
            self.update,
            self.scale,
            self.fail_to_load,
        ]
        self._random.shuffle(steps)
        for step in steps:
            try:
                step()
            except (errors.ClusterError, AssertionError) as error:
                self.failures.append(f"{step.__name__}: {error}")
            self.done[step.__name__] += 1

    def _uid(self) -> str:
        return f"churn-{next(self._numbers)}"

    def launch_and_end(self) -> None:
        uid = self._client.launch_model("echo", model_type="echo", model_uid=self._uid())
        answer = self._cluster.post("/v1/infer", {"model": uid, "items": ["x"]})
        assert answer.status_code == 200, answer.text
        self._client.terminate_model(uid)

    def end_while_loading(self) -> None:
        uid = self._uid()
        body = {"model_name": "echo", "model_type": "echo", "model_uid": uid, "load_seconds": 60}
        self._cluster.post("/v1/models?wait_ready=false", body).raise_for_status()
        time.sleep(self._random.random() * 2)
        self._client.terminate_model(uid)

    def fail_to_load(self) -> None:
        uid = self._uid()
        with suppress(errors.LoadFailed):
            self._client.launch_model("echo", model_type="echo", model_uid=uid, load_error="no")
        self._client.terminate_model(uid)

    def kill_worker(self) -> None:
        before = self._cluster.worker_pids("steady")
        os.kill(self._random.choice(before), 9)
        until(lambda: set(now := self._cluster.worker_pids("steady")) != set(before) and len(now) == 2, within=90)

    def update(self) -> None:
        spec = {"model_name": "echo", "model_type": "echo", "model_uid": "steady", "replica": 2}
        self._client.apply([{**spec, "steps": next(self._numbers)}], prune=False, dry_run=False)
        self._settle(2)

    def scale(self) -> None:
        self._client.scale("steady", 3)
        self._settle(3)
        self._client.scale("steady", 2)
        self._settle(2)

    def _settle(self, workers: int) -> None:
        def is_settled() -> bool:
            status = self._client.status("steady")
            current = {worker.generation for worker in status.workers} == {status.generation}
            return status.state == ModelState.READY and current and len(status.workers) == workers

        until(is_settled, within=90, why="an update does not end")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.soak")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    # Whoever ends it early must not leave a cluster behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    cluster = LiveCluster(Path(mkdtemp(prefix="soak-")))
    cluster.up()
    try:
        with cluster.client() as client:
            client.launch_model("echo", model_type="echo", model_uid="steady", replica=2)
        churn = Churn(cluster, asked.seed)
        for _ in range(WARM_ROUNDS):
            churn.round()
        before = calm(cluster)
        churn.done.clear()
        started = time.monotonic()
        with traffic(cluster.url, "steady", asked.callers, pause_s=0) as seen:
            while time.monotonic() - started < asked.minutes * 60:
                churn.round()
        print(f"{(time.monotonic() - started) / 60:.1f} minutes, {dict(churn.done)}")
        print(f"traffic: {seen}; steps that failed: {len(churn.failures)} {churn.failures[:3]}")
        for failure in Counter(seen.failures).most_common(5):
            print("  ", failure)
        report(before, calm(cluster))
    finally:
        cluster.down()


def calm(cluster: LiveCluster) -> Count:
    """Counted when what was ended has ended: twice the same."""
    last = count(cluster)
    for _ in range(20):
        time.sleep(1.5)
        now = count(cluster)
        if (now.processes, now.claims, now.sockets) == (last.processes, last.claims, last.sockets):
            return now
        last = now
    return last


def report(before: Count, after: Count) -> None:
    leaks = []
    print("\n| | before | after |\n|---|---|---|")
    for name in ("processes", "sockets", "claims", "claimed_bytes"):
        earlier, later = getattr(before, name), getattr(after, name)
        print(f"| {name.replace('_', ' ')} | {earlier} | {later} |")
        # What a worker measured of itself is its claim: no two are the same to the byte.
        if later > (earlier * 1.2 if name == "claimed_bytes" else earlier):
            leaks.append(name)
    for pid, word in before.names.items():
        if pid not in after.files:
            leaks.append(f"{word} was replaced")
            continue
        print(f"| files of {word} | {before.files[pid]} | {after.files[pid]} |")
        print(f"| MB of {word} | {before.resident[pid] / 1e6:.0f} | {after.resident[pid] / 1e6:.0f} |")
        if after.files[pid] > before.files[pid] + SLACK_FILES:
            leaks.append(f"files of {word}")
    print(f"\nleft behind: {', '.join(leaks) or 'nothing'}")


if __name__ == "__main__":
    main()
