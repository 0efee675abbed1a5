"""A model whose processes are replaced while callers use it."""

from __future__ import annotations

from tests.faults.traffic import traffic
from tests.live import LiveCluster


def test_a_restart_replaces_every_process_and_no_request_fails(live: LiveCluster) -> None:
    with live.client() as client:
        client.launch_model("echo", model_uid="again", replica=2)
        before = set(live.worker_pids("again"))
        with traffic(live.url, "again", callers=8) as seen:
            told = live.command("restart", "again", "--reason", "a test").stdout
        assert told.startswith("again is READY with new processes after ")
        assert seen.failures == [], seen
        status = client.status("again")
        assert (status.ready, status.state) == (2, "READY")
        assert before.isdisjoint(worker.pid for worker in status.workers if worker.generation == status.generation)
        assert "Restart model: a test" in [event["event_content"] for event in client.events("again")]
        print(f"restart under traffic: {seen}")
        client.terminate_model("again")
