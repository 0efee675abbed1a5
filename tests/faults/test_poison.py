"""A request that kills every worker that computes it. It is found after two or three workers, and no other request
fails."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from cluster import errors
from tests.faults.test_faults import alive, kill, launch
from tests.faults.traffic import traffic
from tests.live import LiveCluster, until

pytestmark = pytest.mark.ray

#: How long a caller goes on sending the request.
REPEATED_S = 3.0


def poison(cluster: LiveCluster, uid: str, name: str) -> httpx.Response:
    return cluster.post("/v1/infer", {"model": uid, "items": [{"crash": True, "name": name}]})


def restarts(cluster: LiveCluster, uid: str) -> int:
    with cluster.client() as client:
        return client.status(uid).restarts


def test_poison_alone_costs_two_workers_and_is_then_refused_at_once(breakable: LiveCluster) -> None:
    launch(breakable, "poisoned", replica=3)
    # The supervisor may only just have noticed that an earlier test removed a node.
    before, lost_before = breakable.worker_pids("poisoned"), restarts(breakable, "poisoned")
    answer = poison(breakable, "poisoned", "a")
    assert answer.status_code == 422 and answer.json()["error"]["code"] == "poison_request"
    assert "poison for poisoned" in answer.json()["detail"]
    assert sum(map(alive, before)) == 1
    asked = time.monotonic()
    assert poison(breakable, "poisoned", "a").status_code == 422
    assert time.monotonic() - asked < 1
    until(lambda: restarts(breakable, "poisoned") - lost_before == 2, within=10, why="a death is told a little later")
    until(lambda: len(breakable.worker_pids("poisoned")) == 3, within=30)


@pytest.mark.parametrize("replica", [1, 2])
def test_poison_that_is_repeated_under_traffic_fails_nobody_else(breakable: LiveCluster, replica: int) -> None:
    uid = f"beside-{replica}"
    launch(breakable, uid, replica=replica)
    answers: Counter[int] = Counter()
    with traffic(breakable.url, uid) as seen:
        started = time.monotonic()
        while time.monotonic() - started < REPEATED_S or not answers[422]:
            answers[poison(breakable, uid, "a").status_code] += 1
        until(lambda: len(breakable.worker_pids(uid)) == replica, within=30)
        recovered = time.monotonic() - started
    print(f"\n{replica} workers, poison: {dict(answers)}, {restarts(breakable, uid)} workers lost; others: {seen}")
    print(f"whole again {recovered:.1f} s after the first")
    assert seen.failures == []
    assert set(answers) == {422}
    assert restarts(breakable, uid) <= 3


def test_each_of_several_poisons_is_found(breakable: LiveCluster) -> None:
    launch(breakable, "several", replica=2)
    with traffic(breakable.url, "several", callers=8) as seen, ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(poison, breakable, "several", name) for name in "ab"]
        assert {answer.result().status_code for answer in answers} == {422}
    print(f"\ntwo poisons at once: {restarts(breakable, 'several')} workers lost; others: {seen}")
    assert seen.failures == []


def test_a_worker_that_is_merely_killed_makes_poison_of_nobody(breakable: LiveCluster) -> None:
    launch(breakable, "killed", replica=2)
    with traffic(breakable.url, "killed") as seen:
        for _ in range(2):
            before = until(lambda: len(pids := breakable.worker_pids("killed")) == 2 and pids, within=30)
            kill(before[0])
            until(lambda gone=before[0]: gone not in breakable.worker_pids("killed"), within=30)  # type: ignore[misc]
    print(f"\ntwo workers killed one after the other: {seen}")
    assert seen.failures == []
    with breakable.client() as client:
        assert "A request ended" not in str(client.events("killed"))


def test_the_client_raises_what_it_was(breakable: LiveCluster) -> None:
    launch(breakable, "raised")
    answer = poison(breakable, "raised", "a")
    assert answer.status_code == 422
    assert errors.every_error()[answer.json()["error"]["code"]] is errors.PoisonRequest
