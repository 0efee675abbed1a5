"""Runs what the pods of a release would run: a head, an ingress and two workers, each with an address of its own, and
shows what callers see when one of them is lost. `pytest -s` prints the figures."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from cluster import Client, errors
from cluster.status import ModelState
from tests.k8s.pods import Network, Release, traffic
from tests.k8s.rendering import Document, merged, rendered
from tests.live import ROOT, until

pytestmark = [pytest.mark.ray, pytest.mark.slow]

VALUES: Document = {
    "settings": {
        "plugins": ["tests.families"],
        "tick_s": 0.3,
        "probe_s": 3,
        "drain_s": 20,
        # The loss of one of three nodes must not look like a partition.
        "storm_fraction": 0.9,
    },
    "environment": {"PYTHONPATH": str(ROOT)},
    # The loss of a machine is noticed after some seconds here; with the values of the chart it takes half a minute.
    "ray": {
        "environment": {
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "2000",
            "RAY_health_check_failure_threshold": "3",
        }
    },
    "gcs": {"backend": "rocksdb"},
    "ingressNodes": {"replicas": 1},
    "nodeGroups": [{"name": "cpu", "replicas": 2, "cpus": "4", "memory": "4Gi"}],
    "models": [
        {"model_name": "echo", "model_uid": "stays", "replica": 2, "n_gpu": None},
        {"model_name": "echo", "model_uid": "goes", "n_gpu": None},
    ],
}


class Running:
    """The release and its pods."""

    def __init__(self, network: Network) -> None:
        self.release = Release(network, rendered(VALUES))
        started = time.monotonic()
        self.head = self.release.start_head()
        self.ingress = self.release.start("ingress")
        self.workers = [self.release.start("cpu", number) for number in range(2)]
        until(lambda: self.head.answers("readinessProbe"), within=90, why=f"the head does not serve: {self.logs()}")
        until(lambda: self.ingress.answers("readinessProbe"), within=60, why=f"no ingress: {self.logs()}")
        print(f"\nhead, ingress and two workers serve after {time.monotonic() - started:.1f} s")

    @property
    def url(self) -> str:
        return f"http://{self.ingress.ip}:9997"

    def client(self) -> Client:
        return Client(self.url, self.release.key)

    def state(self, uid: str) -> str:
        with self.client() as client:
            found = {status.uid: status.state for status in client.statuses()}
        return found.get(uid, "")

    def places(self, uid: str) -> list[str]:
        with self.client() as client:
            return sorted(w.node for w in client.status(uid).workers if w.state == "READY")

    def pids(self, uid: str) -> list[int]:
        with self.client() as client:
            return sorted(worker.pid for worker in client.status(uid).workers if worker.state == "READY")

    def logs(self) -> str:
        return "\n".join(f"--- {pod.name}\n{pod.log()[-2000:]}" for pod in self.release.network.pods)


@pytest.fixture(scope="module")
def running(network: Network) -> Running:
    return Running(network)


def test_the_rendered_release_serves_what_it_declares(running: Running) -> None:
    until(lambda: running.state("stays") == running.state("goes") == ModelState.READY, within=60, why=running.logs())
    body = {"model": "stays", "items": ["a word"]}
    refused = httpx.post(f"{running.url}/v1/infer", json=body)
    assert refused.status_code == 401, "no key, no answer"
    answer = httpx.post(
        f"{running.url}/v1/infer", json=body, headers={"Authorization": f"Bearer {running.release.key}"}
    )
    assert answer.json()["results"] == ["a word"]
    assert running.places("stays") == sorted(worker.ip for worker in running.workers), "none on the head"
    for pod in (running.head, running.ingress, *running.workers):
        assert pod.answers("livenessProbe") and pod.answers("readinessProbe"), pod.name
        assert running.release.key not in " ".join(pod.environment.values())


def test_the_test_of_the_release_embeds_a_sentence(running: Running) -> None:
    started = time.monotonic()
    status, log = running.release.run_job("demo-test", within=90)
    assert status == 0 and "A sentence became 384 numbers." in log, log
    print(f"\nhelm test: {time.monotonic() - started:.1f} s")


def test_another_list_of_models_changes_only_what_differs(running: Running) -> None:
    with running.client() as client:
        client.launch_model("echo", model_uid="by-hand", n_gpu=None)
    before = running.pids("stays")
    models = [VALUES["models"][0], {"model_name": "echo", "model_uid": "comes", "n_gpu": None}]
    upgraded = merged(VALUES, {"models": models})
    documents = rendered(upgraded)
    # Keys are made once: on an upgrade Helm finds those of the installation.
    kept = [d for d in running.release.documents if d["kind"] == "Secret"]
    running.release.documents = [d for d in documents if d["kind"] != "Secret"] + kept
    with traffic(running.url, running.release.key, "stays") as seen:
        started = time.monotonic()
        status, log = running.release.run_job("demo-apply", within=60)
        assert status == 0, log
        until(lambda: running.state("comes") == ModelState.READY and running.state("goes") == "", within=30)
        took = time.monotonic() - started
    print(f"\nupgrade: {seen}, changed after {took:.1f} s; cluster diff said: {' | '.join(log.splitlines()[:3])}")
    assert seen.failures == []
    assert log.splitlines()[:2] == ["+ comes (echo)", "- goes"]
    assert running.pids("stays") == before and running.state("by-hand") == ModelState.READY


def test_an_evicted_worker_node_finishes_what_it_has(running: Running) -> None:
    leaving, kept = running.workers
    with traffic(running.url, running.release.key, "stays") as seen, ThreadPoolExecutor(8) as callers:
        body = {"model": "stays", "items": [{"sleep": 2}]}
        headers = {"Authorization": f"Bearer {running.release.key}"}
        # Some requests are being computed by the worker that leaves.
        slow = [
            callers.submit(httpx.post, f"{running.url}/v1/infer", json=body, headers=headers, timeout=60)
            for _ in range(4)
        ]
        time.sleep(1)
        took = leaving.delete(timeout=60)
        running.workers = [running.release.start("cpu", 3), kept]
        answers = [call.result().status_code for call in slow]
        until(
            lambda: running.state("stays") == ModelState.READY and leaving.ip not in running.places("stays"), within=60
        )
    print(f"\nworker node evicted: {seen}, slow requests {answers}, gone after {took:.1f} s")
    assert seen.failures == [] and answers == [200] * 4


def test_a_lost_worker_node_costs_no_request_and_its_models_move(running: Running) -> None:
    lost, kept = running.workers
    with running.client() as client:
        until(lambda: lost.ip in {row["ip_address"] for row in client.cluster_info()}, within=60)
        # After scaling down and up its workers are spread over the nodes that there are now.
        client.scale("stays", 1)
        until(lambda: len(running.places("stays")) == 1, within=30)
        client.scale("stays", 2)
    until(lambda: running.places("stays") == sorted([lost.ip, kept.ip]), within=30, why=running.logs())
    with traffic(running.url, running.release.key, "stays") as seen:
        started = time.monotonic()
        lost.kill()
        until(
            lambda: lost.ip not in (found := running.places("stays")) and len(found) == 2,
            within=60,
            why=f"not moved, {seen}",
        )
        moved = time.monotonic() - started
    print(f"\nworker node killed: {seen}, both workers READY on others after {moved:.1f} s")
    assert seen.failures == []
    running.workers = [kept]


def test_a_lost_head_costs_no_request_and_comes_back_with_its_wishes(running: Running) -> None:
    before = running.pids("stays")
    with running.client() as client:
        known = set(client.list_models())
    with traffic(running.url, running.release.key, "stays") as seen:
        started = time.monotonic()
        running.head.kill()
        time.sleep(3)
        running.head = running.release.start_head()
        until(lambda: running.head.answers("readinessProbe"), within=60, why=running.logs())
        back = time.monotonic() - started
        with running.client() as client:
            until(lambda: _launches(client), within=60, why=running.logs())
        launches = time.monotonic() - started
    print(f"\nhead killed for 3 s: {seen}, answers after {back:.1f} s, launches after {launches:.1f} s")
    assert seen.failures == []
    assert running.pids("stays") == before, "workers went on as they were"
    with running.client() as client:
        assert set(client.list_models()) >= known


def _launches(client: Client) -> bool:
    try:
        client.launch_model("echo", model_uid="after", n_gpu=None)
    except (errors.Unavailable, errors.DoesNotFit):
        return False
    return True
