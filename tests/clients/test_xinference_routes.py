"""Routes of Xinference that its clients have no method for, called as its web page and its documentation do."""

from __future__ import annotations

import httpx
import pytest

from tests.clients.test_language_clients import MESSAGES
from tests.documented import ROUTES
from tests.live import LiveCluster


@pytest.mark.documented(ROUTES, "models/{uid}/events", "models/{uid}/replicas", "models/{type}/{name}/versions")
@pytest.mark.documented(ROUTES, "models/families", "model_registrations/{type}?detailed=true")
def test_models_are_looked_into(live: LiveCluster, embedder: str) -> None:
    (event, *_) = live.get(f"/v1/models/{embedder}/events").json()
    assert event.keys() >= {"event_type", "event_ts", "event_content"}
    (replica,) = live.get(f"/v1/models/{embedder}/replicas").json()
    assert replica.keys() >= {"replica_id", "replica_model_uid", "worker_address", "status", "created_ts"}
    (version, *_) = live.get("/v1/models/embedding/all-MiniLM-L6-v2/versions").json()
    assert version["cache_status"] is True and version["model_file_location"]
    families = live.get("/v1/models/families").json()
    assert "smollm2-135m-instruct" in families["chat"]
    detailed = live.get("/v1/model_registrations/embedding?detailed=true").json()
    row = next(row for row in detailed if row["model_name"] == "all-MiniLM-L6-v2")
    assert row["is_builtin"] is True and row["dimensions"] == 384


@pytest.mark.documented(ROUTES, "models/instance")
def test_a_version_is_launched(live: LiveCluster) -> None:
    (version, *_) = live.get("/v1/models/rerank/ce-tiny/versions").json()
    body = {"model_version": version["model_version"], "model_type": "rerank", "model_uid": "of-a-version"}
    try:
        assert live.post("/v1/models/instance", body).json()["model_uid"] == "of-a-version"
        assert live.get("/v1/models/of-a-version").json()["model_name"] == "ce-tiny"
    finally:
        httpx.delete(live.url + "/v1/models/of-a-version")


@pytest.mark.documented(ROUTES, "status", "address", "cluster/auth", "cluster/info", "cluster/version")
@pytest.mark.documented(ROUTES, "cluster/devices", "metrics", "token")
def test_the_cluster_is_looked_into(live: LiveCluster, embedder: str) -> None:
    workers = live.get("/status").json()["workers"]
    assert all({"cpu"} <= worker["status"].keys() for worker in workers.values()) and workers
    assert live.get("/v1/address").json() == f"127.0.0.1:{live.port}"
    assert live.get("/v1/cluster/auth").json() == {"auth": False}
    kinds = [row["node_type"] for row in live.get("/v1/cluster/info?detailed=true").json()]
    assert kinds[0] == "Supervisor"
    assert live.get("/v1/cluster/version").json()["version"]
    assert live.get("/v1/cluster/devices").json() == 0
    assert live.get("/metrics").text.startswith("# HELP")
    assert live.post("/token", {"username": "me", "password": "any"}).json()["token_type"] == "bearer"


@pytest.mark.documented(ROUTES, "messages", "anthropic/messages", "anthropic/models", "anthropic/models/{uid}")
def test_messages_have_two_addresses(live: LiveCluster, talker: str) -> None:
    body = {"model": talker, "max_tokens": 8, "messages": MESSAGES}
    with httpx.Client(headers={"anthropic-version": "2023-06-01"}, timeout=60) as client:
        for path in ("/v1/messages", "/anthropic/v1/messages"):
            answer = client.post(live.url + path, json=body)
            assert answer.status_code == 200 and answer.json()["content"][0]["type"] == "text", answer.text
        listed = client.get(f"{live.url}/anthropic/v1/models").json()
        assert {"id": talker, "type": "model"}.items() <= {
            key: value for row in listed["data"] if row["id"] == talker for key, value in row.items()
        }.items()
        assert (
            listed["has_more"] is False
            and client.get(f"{live.url}/anthropic/v1/models/{talker}").json()["id"] == talker
        )
        assert client.get(f"{live.url}/anthropic/v1/models/nobody").status_code == 404
