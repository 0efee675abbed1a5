"""A model that follows its load: more callers bring more processes, fewer take them away again, and nobody notices."""

from __future__ import annotations

from tests.faults.traffic import traffic
from tests.live import LiveCluster, until


def test_replicas_come_with_callers_and_go_with_them_and_no_request_fails(live: LiveCluster) -> None:
    with live.client() as client:
        replica = {"min": 0, "max": 3, "target_queue_s": 0.05}
        client.launch_model("narrow", model_uid="follows", run_seconds=0.1, replica=replica)
        with traffic(live.url, "follows", callers=1) as alone:
            assert client.scale_of("follows")["replica"] == 1
            with traffic(live.url, "follows", callers=24) as crowd:
                until(lambda: client.scale_of("follows")["ready"] == 3, within=40)
            until(lambda: len(live.worker_pids("follows")) == 1, within=40)
        assert (alone.failures, crowd.failures) == ([], []), (alone, crowd)
        happened = [event["event_content"] for event in client.events("follows")]
        assert any(text.startswith("Scaled from 1 to ") and "requests waited" in text for text in happened)
        status = client.status("follows")
        assert status.scale is not None and status.scale.why == "Scaled from 2 to 1: 1 would have been enough for 2 s"
        assert "1 of 0–3" in live.command("status", "follows").stdout
        described = live.command("describe", "follows").stdout
        assert "1 of 0–3: Scaled from 2 to 1: 1 would have been enough for 2 s" in described
        shown = live.command("scale", "follows").stdout.splitlines()
        assert shown[0] == "follows has 1 of 0–3 replicas."
        # Nobody asks any more: it sleeps, and the next request wakes it.
        until(lambda: client.status("follows").state == "ASLEEP", within=20)
        answer = live.post("/v1/infer", {"model": "follows", "items": ["x"]})
        assert answer.status_code == 200, answer.text
        print(f"following the load: {alone}; {crowd}")
        client.terminate_model("follows")


def test_people_set_the_number_within_bounds_and_the_bounds_over_http(live: LiveCluster) -> None:
    with live.client() as client:
        client.launch_model("echo", model_uid="bounded")

        def scale(**body: object) -> tuple[int, str]:
            answer = live.post("/v1/models/bounded/scale", body)
            return answer.status_code, answer.text

        assert client.scale_of("bounded")["target_queue_s"] is None
        assert scale(min=0)[0] == 400 and "need max_replica" in scale(min=0)[1]
        assert scale()[0] == 400 and "Say what to change" in scale()[1]
        assert scale(replica=0)[0] == 400 and "terminate bounded to stop it" in scale(replica=0)[1]
        assert scale(min=0, max=2) == (200, '{"model_uid":"bounded","replica":1}')
        assert "bounded has 1 to 2 replicas, not 3" in scale(replica=3)[1]
        assert scale(replica=2) == (200, '{"model_uid":"bounded","replica":2}')
        numbers = client.scale_of("bounded")
        assert (numbers["min"], numbers["max"], numbers["target_queue_s"], numbers["queue_s"]) == (0, 2, 1.0, 0.0)
        assert scale(replica=0) == (200, '{"model_uid":"bounded","replica":0}')
        assert client.status("bounded").state == "ASLEEP"
        assert scale(replica=1)[0] == 200
        until(lambda: client.status("bounded").state == "READY", within=20)
        assert client.describe_model("bounded")["scale"] == {"min": 0, "max": 2, "target_queue_s": 1.0}
        client.terminate_model("bounded")
