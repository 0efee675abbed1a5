"""Workers that hang without ending, with the default settings."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.test_faults import alive, kill, launch
from tests.faults.traffic import traffic
from tests.live import LiveCluster, until

pytestmark = pytest.mark.ray


@pytest.fixture(autouse=True)
def nothing_left_there(usual: LiveCluster) -> Iterator[None]:
    yield
    usual.terminate_all()


@pytest.mark.parametrize(("replica", "longest_s"), [(2, 8.0), (1, 20.0)])
def test_a_worker_that_is_stopped_is_replaced_and_costs_nobody_his_answer(
    usual: LiveCluster, replica: int, longest_s: float
) -> None:
    uid = f"stopped-{replica}"
    launch(usual, uid, replica=replica)
    (pid, *_) = before = usual.worker_pids(uid)
    with traffic(usual.url, uid) as seen:
        stopped = kill(pid, signal.SIGSTOP)
        until(lambda: (pids := usual.worker_pids(uid)) and pid not in pids and len(pids) == replica, within=60)
        replaced = time.monotonic() - stopped
    print(f"\none of {replica} stopped: {seen}, replaced after {replaced:.1f} s")
    assert seen.failures == []
    assert replaced < 15 and seen.longest_s < longest_s
    assert set(before[1:]) <= set(usual.worker_pids(uid))
    until(lambda: not alive(pid), within=10, why="the hung process keeps its memory")


def test_a_worker_that_stops_for_a_while_goes_on(usual: LiveCluster) -> None:
    launch(usual, "paused", replica=2)
    before = usual.worker_pids("paused")
    with traffic(usual.url, "paused") as seen:
        kill(before[0], signal.SIGSTOP)
        time.sleep(4.5)
        kill(before[0], signal.SIGCONT)
        until(lambda: usual.worker_pids("paused") == before, within=5)
    print(f"\nstopped for 4.5 s: {seen}")
    assert seen.failures == []


def test_a_request_that_hangs_every_worker_is_found_and_costs_nobody_else_his_answer(usual: LiveCluster) -> None:
    launch(usual, "hangs", replica=2)
    before = usual.worker_pids("hangs")
    with traffic(usual.url, "hangs", callers=16) as seen, ThreadPoolExecutor(1) as pool:
        hung = time.monotonic()
        poison = pool.submit(usual.post, "/v1/infer", {"model": "hangs", "items": [{"sleep": 1000}]}, timeout=60)
        answer = poison.result()
        refused = time.monotonic() - hung
        until(lambda: len(pids := usual.worker_pids("hangs")) == 2 and not set(pids) & set(before), within=30)
        replaced = time.monotonic() - hung
    print(
        f"\na request that hangs: {seen}, refused after {refused:.1f} s, both workers replaced after {replaced:.1f} s"
    )
    assert seen.failures == []
    assert answer.status_code == 422, answer.text
    assert seen.longest_s < 15


def test_a_worker_that_computes_for_long_is_not_ended_for_it(usual: LiveCluster) -> None:
    launch(usual, "slow")
    before = usual.worker_pids("slow")
    with traffic(usual.url, "slow", callers=4) as seen:
        answer = usual.post("/v1/infer", {"model": "slow", "items": [{"sleep": 5}]}, timeout=60)
    print(f"\nthe only worker computes for 5 s: {seen}")
    assert answer.status_code == 200 and seen.failures == []
    assert usual.worker_pids("slow") == before


def test_a_worker_that_fails_everything_costs_nobody_else_his_answer_and_is_replaced(usual: LiveCluster) -> None:
    launch(usual, "fails", replica=2)
    before = usual.worker_pids("fails")
    # Nothing else is at the worker, so nothing else can have broken it.
    broken = usual.post("/v1/infer", {"model": "fails", "items": [{"break": True}]})
    assert broken.status_code == 500
    failed = time.monotonic()
    with traffic(usual.url, "fails", callers=16) as seen:
        until(lambda: len(pids := usual.worker_pids("fails")) == 2 and set(pids) != set(before), within=30)
        replaced = time.monotonic() - failed
    print(f"\none of two fails every call: {seen}, replaced after {replaced:.1f} s")
    assert seen.failures == []
    assert len(set(before) & set(usual.worker_pids("fails"))) == 1


def test_of_requests_that_came_together_the_one_that_breaks_workers_is_found(usual: LiveCluster) -> None:
    launch(usual, "breaks", replica=2)
    with traffic(usual.url, "breaks", callers=16) as seen:
        answer = usual.post("/v1/infer", {"model": "breaks", "items": [{"break": True}]}, timeout=60)
        until(lambda: len(usual.worker_pids("breaks")) == 2, within=30)
    print(f"\na request that breaks workers, among others: {answer.status_code}, {seen}")
    assert seen.failures == []
    assert answer.status_code in (422, 500)
    assert usual.post("/v1/infer", {"model": "breaks", "items": ["x"]}).status_code == 200
