"""Real models that sleep, so that no process is left, or doze; and the next request is answered all the same."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil

from cluster.status import ModelState, ModelStatus, WorkerState
from tests.live import LiveCluster, until


def test_an_idle_model_leaves_no_process_and_the_next_requests_wake_it_once(live: LiveCluster) -> None:
    with live.client() as client:
        client.launch_model("letters", model_uid="sleepy", idle_sleep_s=0.5)
        (worker,) = next(status for status in client.statuses() if status.uid == "sleepy").workers
        until(lambda: not psutil.pid_exists(worker.pid), within=20)
        (status,) = [status for status in client.statuses() if status.uid == "sleepy"]
        assert (status.state, status.ready) == (ModelState.ASLEEP, 0)
        assert status.reason.startswith("idle for 0.5 s; the next request wakes it, which takes about ")

        def embed(text: str) -> int:
            body = {"model": "sleepy", "input": text}
            return httpx.post(f"{live.url}/v1/embeddings", json=body, timeout=60).status_code

        with ThreadPoolExecutor(20) as callers:
            assert set(callers.map(embed, map(str, range(20)))) == {200}
        happened = [event["event_content"] for event in client.events("sleepy")]
        assert happened.count("Wakes up: somebody asks for it") == 1
        client.sleep_model("sleepy")
        assert "Goes to sleep: somebody sent it to sleep" in [e["event_content"] for e in client.events("sleepy")]
        client.wake_model("sleepy")
        assert embed("awake") == 200
        client.terminate_model("sleepy")


def test_a_dozing_model_is_woken_once_in_its_own_process_and_sleeps_when_that_ends(live: LiveCluster) -> None:
    with live.client() as client:
        client.launch_model("ce-tiny", "rerank", model_uid="dozy", idle_doze_s=1)

        def status() -> ModelStatus:
            return next(status for status in client.statuses() if status.uid == "dozy")

        def rerank(text: str) -> int:
            body = {"model": "dozy", "query": "rain", "documents": [text]}
            return httpx.post(f"{live.url}/v1/rerank", json=body, timeout=60).status_code

        before = status().workers[0]
        until(lambda: [worker.state for worker in status().workers] == [WorkerState.DOZING], within=30)
        assert status().state == ModelState.DOZING
        assert status().workers[0].claim_bytes < before.claim_bytes
        with ThreadPoolExecutor(20) as callers:
            assert set(callers.map(rerank, map(str, range(20)))) == {200}
        happened = [event["event_content"] for event in client.events("dozy")]
        assert happened.count("Wakes up from its doze: somebody asks for it") == 1
        client.doze_model("dozy")
        until(lambda: [worker.state for worker in status().workers] == [WorkerState.DOZING], within=30)
        assert status().workers[0].pid == before.pid and "the next request wakes it, which takes" in status().reason
        psutil.Process(before.pid).kill()
        until(lambda: status().state == ModelState.ASLEEP, within=20)
        assert status().restarts == 0 and rerank("rain") == 200
        client.terminate_model("dozy")
