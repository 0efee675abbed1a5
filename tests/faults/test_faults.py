"""Every promise about failures, tested under traffic; `pytest -s` shows ok / failed and the seconds to recover."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from cluster import AsyncClient, errors
from cluster.status import ModelState
from tests.faults.traffic import traffic
from tests.live import LiveCluster, until

pytestmark = pytest.mark.ray


def launch(cluster: LiveCluster, uid: str, **fields: object) -> str:
    with cluster.client() as client:
        return client.launch_model(model_name="echo", model_type="echo", model_uid=uid, **fields)


def kill(pid: int, number: int = signal.SIGKILL) -> float:
    os.kill(pid, number)
    return time.monotonic()


def in_hand(cluster: LiveCluster, uid: str) -> int:
    """The number of requests that were sent to the model and are not answered yet."""
    (row,) = [row for row in cluster.get("/models").json()["data"] if row["id"] == uid]
    return int(row["stats"]["results_pending"])


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_killed_worker_costs_no_request_and_comes_back(breakable: LiveCluster) -> None:
    launch(breakable, "two", replica=2)
    before = breakable.worker_pids("two")
    with traffic(breakable.url, "two") as seen:
        killed = kill(before[0])
        after = until(
            lambda: [p for p in breakable.worker_pids("two") if p not in before] and breakable.worker_pids("two"),
            within=30,
        )
        recovered = time.monotonic() - killed
    print(f"\nworker killed: {seen}, second worker READY again after {recovered:.1f} s")
    assert seen.failures == []
    assert len(after) == 2 and before[1] in after


def test_a_worker_whose_socket_is_gone_is_reached_by_ray(breakable: LiveCluster) -> None:
    launch(breakable, "far")
    (pid,) = breakable.worker_pids("far")
    (path,) = (breakable.home / "run" / "workers").glob(f"*-{pid}.sock")
    path.unlink()
    answer = breakable.post("/v1/infer", {"model": "far", "items": ["x"]})
    assert answer.status_code == 200 and answer.json()["results"] == ["x"]
    with traffic(breakable.url, "far", callers=8) as seen:
        pass
    assert seen.failures == []


def test_the_only_worker_killed_holds_requests_until_it_is_back(breakable: LiveCluster) -> None:
    launch(breakable, "one")
    (pid,) = breakable.worker_pids("one")
    with traffic(breakable.url, "one", callers=8) as seen:
        killed = kill(pid)
        until(lambda: breakable.worker_pids("one") not in ([], [pid]), within=30)
        recovered = time.monotonic() - killed
    print(f"\nonly worker killed: {seen}, READY again after {recovered:.1f} s")
    assert seen.failures == []


def test_a_killed_supervisor_costs_no_request_and_adopts_the_workers(breakable: LiveCluster) -> None:
    launch(breakable, "kept", replica=2)
    pids = breakable.worker_pids("kept")
    with traffic(breakable.url, "kept") as seen:
        killed = kill(breakable.named("ray::SupervisorActor")[0].pid)
        launch(breakable, "after")
        recovered = time.monotonic() - killed
    print(f"\nsupervisor killed: {seen}, launches work again after {recovered:.1f} s")
    assert seen.failures == []
    assert breakable.worker_pids("kept") == pids
    assert recovered < 10


def test_everything_killed_and_started_again_serves_what_was_wished(breakable: LiveCluster) -> None:
    launch(breakable, "first", replica=2)
    launch(breakable, "second")
    breakable.kill_everything()
    started = time.monotonic()
    breakable.up()
    # It is held, not refused because the model loads: this model has served before.
    answer = breakable.post("/v1/infer", {"model": "first", "items": ["x"]})
    answered = time.monotonic()
    with breakable.client() as client:
        until(lambda: [s.state for s in client.statuses()] == [ModelState.READY] * 2, within=60)
    print(
        f"\neverything killed: the first call is answered {answered - started:.1f} s after `cluster up` began, "
        f"all wished models READY after {time.monotonic() - started:.1f} s"
    )
    assert answer.status_code == 200 and answer.json()["results"] == ["x"], answer.text
    assert len(breakable.worker_pids("first")) == 2


def test_a_hung_worker_is_found_and_replaced(breakable: LiveCluster) -> None:
    launch(breakable, "hung", replica=2)
    before = breakable.worker_pids("hung")
    stopped = kill(before[0], signal.SIGSTOP)
    until(lambda: before[0] not in breakable.worker_pids("hung") and len(breakable.worker_pids("hung")) == 2, within=60)
    print(f"\nworker stopped with SIGSTOP: replaced after {time.monotonic() - stopped:.1f} s")
    until(lambda: not alive(before[0]), within=10, why="the hung process keeps its memory")


def test_a_model_that_raises_fails_one_caller_only(breakable: LiveCluster) -> None:
    launch(breakable, "raises")
    with traffic(breakable.url, "raises", callers=16) as seen:
        for _ in range(10):
            answer = breakable.post("/v1/infer", {"model": "raises", "items": ["x", {"raise": True}]})
            assert answer.status_code == 500 and "told to raise" in answer.json()["detail"]
            bad = breakable.post("/v1/infer", {"model": "raises", "items": ["bad"]})
            assert bad.status_code == 400
    assert seen.failures == []


def test_scaling_down_and_an_update_cost_no_request(breakable: LiveCluster) -> None:
    launch(breakable, "changing", replica=3)
    with breakable.client() as client, traffic(breakable.url, "changing") as seen:
        client.scale("changing", 1)
        until(lambda: len(breakable.worker_pids("changing")) == 1, within=20)
        spec = {"model_name": "echo", "model_type": "echo", "model_uid": "changing", "steps": 2}
        changes = client.apply([spec], prune=False, dry_run=False)
        assert [change["change"] for change in changes] == ["update"]
        generation = client.status("changing").generation
        until(lambda: client.status("changing").state == ModelState.READY, within=30)
        until(lambda: {w.generation for w in client.status("changing").workers} == {generation}, within=20)
    print(f"\nscaled 3 to 1, then updated: {seen}")
    assert seen.failures == []


def test_a_bad_update_leaves_the_old_serving(breakable: LiveCluster) -> None:
    launch(breakable, "updated")
    spec = {"model_name": "echo", "model_type": "echo", "model_uid": "updated", "load_error": "no such luck"}
    with breakable.client() as client, traffic(breakable.url, "updated", callers=8) as seen:
        client.apply([spec], prune=False, dry_run=False)
        status = until(lambda: (s := client.status("updated")).error_code and s, within=30)
        assert status.state == ModelState.DEGRADED and "no such luck" in status.reason
        (old,) = breakable.worker_pids("updated")
        killed = kill(old)
        until(lambda: breakable.worker_pids("updated") not in ([], [old]), within=30)
        recovered = time.monotonic() - killed
        assert client.status("updated").state == ModelState.DEGRADED
    print(f"\nbad update, then the last old worker killed: {seen}, another serves after {recovered:.1f} s")
    assert seen.failures == []


def test_fifty_launches_of_one_uid_are_one_launch(breakable: LiveCluster) -> None:
    async def many() -> list[object]:
        async with AsyncClient(breakable.url) as client:
            same = [client.launch_model(model_name="echo", model_type="echo", model_uid="same") for _ in range(40)]
            other = [
                client.launch_model(model_name="echo", model_type="echo", model_uid="same", steps=9) for _ in range(10)
            ]
            return await asyncio.gather(*same, *other, return_exceptions=True)

    answers = asyncio.run(many())
    assert set(map(str, answers[:40])) == {"same"} or set(map(str, answers[40:])) == {"same"}
    assert all(answer == "same" or isinstance(answer, errors.Conflict) for answer in answers)
    with breakable.client() as client:
        assert len(client.status("same").workers) == 1
    assert len(breakable.named("ray::WorkerActor")) == 1


@pytest.mark.parametrize("phase", ["at once", "loading", "ready", "busy", "failed"])
def test_terminate_leaves_nothing_behind_in_any_phase(breakable: LiveCluster, phase: str) -> None:
    options: dict[str, object] = {"loading": {"load_seconds": 60}, "failed": {"load_error": "no"}}.get(phase, {})  # type: ignore[assignment]
    with breakable.client() as client:
        body = {"model_name": "echo", "model_type": "echo", "model_uid": "gone", **options}
        breakable.post("/v1/models?wait_ready=false", body).raise_for_status()
        if phase == "loading":
            until(lambda: client.status("gone").stage == "loading", within=20)
        if phase == "failed":
            until(lambda: client.status("gone").state == ModelState.FAILED, within=20)
        if phase in ("ready", "busy"):
            until(lambda: client.status("gone").state == ModelState.READY, within=20)
        busy = threading.Thread(
            target=breakable.post, args=("/v1/infer", {"model": "gone", "items": [{"sleep": 3}]}), daemon=True
        )
        if phase == "busy":
            busy.start()
            until(lambda: in_hand(breakable, "gone"), within=10)
        client.terminate_model("gone")
        asked = time.monotonic()
        until(lambda: not breakable.named("ray::WorkerActor"), within=10, why="a worker process is left")
        until(lambda: sum(row["workers"] for row in client.cluster_info()) == 0, within=10, why="a claim is left")
        print(f"\nterminated when {phase}: nothing left after {time.monotonic() - asked:.1f} s")
        with pytest.raises(errors.UnknownUid):
            client.status("gone")


def test_a_cancelled_launch_says_so_to_whoever_waits(breakable: LiveCluster) -> None:
    with ThreadPoolExecutor(1) as pool, breakable.client() as client:
        waiting = pool.submit(launch, breakable, "slow", load_seconds=60)
        until(lambda: [s.uid for s in client.statuses()] == ["slow"], within=10)
        client.cancel_launch_model("slow")
        with pytest.raises(errors.LaunchCancelled):
            waiting.result(20)


@pytest.mark.parametrize("characters", [1, 1_000_000])
def test_a_client_that_goes_away_takes_its_waiting_work_with_it(breakable: LiveCluster, characters: int) -> None:
    launch(breakable, "left")
    slow = threading.Thread(target=breakable.post, args=("/v1/infer", {"model": "left", "items": [{"sleep": 6}]}))
    slow.start()
    until(lambda: in_hand(breakable, "left"), within=5)
    body = {"model": "left", "items": ["x" * characters]}
    with pytest.raises(httpx.ReadTimeout):
        breakable.post("/v1/infer", body, headers={"x-request-id": "gone"}, timeout=1)
    # Asking whether it still waits would drop it, so this is asked only once, after the time that a close takes to
    # arrive.
    with breakable.client() as client:
        until(lambda: client.status("left").state == ModelState.READY, within=5)
    answers = [breakable.post("/v1/models/left/requests/gone/abort", {}).json()["msg"]]
    assert slow.is_alive(), "the slow request ended too early for this to say anything"
    assert answers == ["NOT_FOUND"], "the work of a client that left still waits"
    slow.join()


def test_a_waiting_request_can_be_aborted_by_its_id(breakable: LiveCluster) -> None:
    launch(breakable, "aborted")
    slow = threading.Thread(target=breakable.post, args=("/v1/infer", {"model": "aborted", "items": [{"sleep": 4}]}))
    slow.start()
    until(lambda: in_hand(breakable, "aborted"), within=5)
    with ThreadPoolExecutor(1) as pool:
        body = {"model": "aborted", "items": ["x"]}
        waiting = pool.submit(breakable.post, "/v1/infer", body, headers={"x-request-id": "mine"})
        until(lambda: breakable.post("/v1/models/aborted/requests/mine/abort", {}).json()["msg"] == "DONE", within=3)
        answer = waiting.result(10)
    assert answer.status_code == 409 and answer.json()["detail"] == "The request has been cancelled: mine"
    slow.join()


def test_a_full_model_says_when_to_come_back(breakable: LiveCluster) -> None:
    launch(breakable, "full", request_limits=1)
    slow = threading.Thread(target=breakable.post, args=("/v1/infer", {"model": "full", "items": [{"sleep": 2}]}))
    slow.start()
    until(lambda: in_hand(breakable, "full"), within=5)
    answer = until(
        lambda: (a := breakable.post("/v1/infer", {"model": "full", "items": ["x"]})).status_code == 429 and a, within=5
    )
    slow.join()
    assert "Rate limit reached" in answer.json()["detail"] and answer.headers["retry-after"] in "12"
    assert breakable.post("/v1/infer", {"model": "full", "items": ["x"]}).status_code == 200


def test_control_calls_are_answered_while_inference_is_saturated(breakable: LiveCluster) -> None:
    launch(breakable, "saturated", run_seconds=0.2)
    with traffic(breakable.url, "saturated", callers=32), breakable.client() as client:
        started = time.monotonic()
        assert client.logs("saturated") is not None
        assert client.status("saturated").state == ModelState.READY
        assert time.monotonic() - started < 2
