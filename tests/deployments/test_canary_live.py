"""New versions of a real model on trial, while callers ask it all the time."""

from __future__ import annotations

from typing import Any

from cluster import Client
from tests.faults.traffic import traffic
from tests.live import LiveCluster, until


def test_bad_canaries_go_by_themselves_and_a_good_one_stays_and_no_request_fails(live: LiveCluster) -> None:
    with live.client() as client:
        client.launch_model("echo", model_uid="tried")
        first = client.status("tried").generation
        with traffic(live.url, "tried", callers=16) as callers:
            (failing,) = given_up(client, {"run_error": "wrong shape"})
            assert "requests failed, of the old version 0 of " in failing
            (slow,) = given_up(client, {"run_seconds": 0.5})[1:]
            assert "its median is " in slow
            assert client.status("tried").generation == first
            declare(client, {"steps": 2})
            assert client.describe_model("tried")["canary"] == {"percent": 25}
            until(lambda: client.status("tried").canary is None, within=60)
            status = until(lambda: served_by_all_new(client), within=60)
            assert status.wanted.spec.options == {"steps": 2}
        assert callers.failures == [] and callers.ok > 200, callers
        texts = [event["event_content"] for event in client.events("tried")]
        assert len([text for text in texts if "takes the place of the old version" in text]) == 1
        client.terminate_model("tried")


def declare(client: Client, options: dict[str, Any]) -> None:
    spec = {"model_name": "echo", "model_uid": "tried", "canary": "25%", "options": options}
    (change,) = client.apply([spec], prune=False)
    assert change["change"] == "update"
    until(lambda: client.describe_model("tried").get("canary"), within=30)


def given_up(client: Client, options: dict[str, Any]) -> list[str]:
    """The events of all that were given up so far."""
    declare(client, options)
    until(lambda: client.status("tried").canary is None, within=60)
    return [e["event_content"] for e in client.events("tried") if "given up for" in e["event_content"]]


def served_by_all_new(client: Client) -> Any:
    status = client.status("tried")
    return status if {worker.generation for worker in status.workers} == {status.generation} else None
