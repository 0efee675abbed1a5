"""Workers that hang without ending, with the default settings."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

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
