"""Versions of models in Xinference's words, and the files of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.keys import new_key
from cluster.status import ModelStatus
from deployments.ingress.control.versions import fields_of_version
from tests.attacks.standing_in import StandIn, asked, run, settings
from tests.cluster.statuses import make_status
from tests.cluster.weights.test_removal import downloaded


@pytest.mark.parametrize(
    ("version", "fields"),
    [
        ("bge-m3", {"model_name": "bge-m3"}),
        ("bge-m3--pytorch--none", {"model_name": "bge-m3", "model_format": "pytorch"}),
        ("m--x--ggufv2--Q8_0", {"model_name": "m--x", "model_format": "ggufv2", "quantization": "Q8_0"}),
    ],
)
def test_a_version_is_a_name_a_format_and_a_quantisation(version: str, fields: dict[str, str]) -> None:
    assert fields_of_version(version) == fields


def test_versions_and_families_are_listed(tmp_path: Path) -> None:
    async def scene() -> None:
        async with asked(settings(tmp_path), StandIn()) as client:
            rows = (await client.get("/v1/models/rerank/ce-tiny/versions")).json()
            assert rows[0]["model_version"] == "ce-tiny--pytorch--none" and rows[0]["cache_status"] is True
            assert (await client.get("/v1/models/image/ppocr-v6/versions")).status_code == 200
            families = (await client.get("/v1/models/families")).json()
            assert "bge-m3" in families["embed"] and "ce-tiny" in families["rerank"]
            assert (await client.get("/v1/models/rerank/nowhere/versions")).status_code == 400

    run(scene())


def test_a_version_is_launched(tmp_path: Path) -> None:
    async def scene() -> None:
        supervisor = StandIn()
        async with asked(settings(tmp_path), supervisor) as client:
            body = {"model_version": "echo--pytorch--none", "model_uid": "v", "model_type": None}
            answer = await client.post("/v1/models/instance", params={"wait_ready": False}, json=body)
            assert answer.status_code == 200, answer.text
            (wanted,) = supervisor.launched
            assert (wanted.uid, wanted.entry.name) == ("v", "echo")
            assert (await client.post("/v1/models/instance", json={"model_uid": "v"})).status_code == 400

    run(scene())


class Launched(StandIn):
    """With a model that was launched from the weights of `a/b`."""

    def _statuses(self) -> list[ModelStatus]:
        status = make_status("m", "READY")
        source = status.wanted.source.model_copy(update={"hub": "huggingface", "id": "a/b"})
        return [status.model_copy(update={"wanted": status.wanted.model_copy(update={"source": source})})]


def test_weights_are_deleted_unless_they_are_in_use(tmp_path: Path) -> None:
    async def scene() -> None:
        cache = downloaded(tmp_path, "c1", model_safetensors="weights")
        whose = {"model_version": "c1"}
        async with asked(settings(tmp_path), Launched()) as client:
            refused = await client.delete("/v1/cache/models", params=whose)
            assert refused.status_code == 409 and "m is launched with these weights" in refused.json()["detail"]
        async with asked(settings(tmp_path), StandIn()) as client:
            paths = (await client.get("/v1/cache/models/files", params=whose)).json()["paths"]
            assert [Path(path).name for path in paths] == ["model.safetensors"]
            assert (await client.delete("/v1/cache/models", params=whose)).json() == {"result": True}
            assert not cache.folder.exists()
            assert (await client.delete("/v1/cache/models", params=whose)).status_code == 400

    run(scene())


def test_weights_say_which_models_are_launched_with_them_as_far_as_the_caller_may_know(tmp_path: Path) -> None:
    (its, its_text), (other, other_text) = (new_key(uid, ["list"], [uid]) for uid in ("m", "n"))

    async def scene() -> None:
        downloaded(tmp_path, "c1", model_safetensors="weights")
        supervisor = Launched(keys=(its, other))
        async with asked(settings(tmp_path, auth="on"), supervisor) as client:
            for text, uids in ((its_text, ["m"]), (other_text, [])):
                header = {"authorization": f"Bearer {text}"}
                (row,) = (await client.get("/v1/cache/models", headers=header)).json()["list"]
                assert (row["model_version"], row["used_by"]) == ("c1", uids)

    run(scene())


def test_a_key_for_some_models_deletes_nothing(tmp_path: Path) -> None:
    key, text = new_key("some", ["launch"], ["m"])

    async def scene() -> None:
        cache = downloaded(tmp_path, "c1", model_safetensors="weights")
        async with asked(settings(tmp_path, auth="on"), StandIn(keys=(key,))) as client:
            header = {"authorization": f"Bearer {text}"}
            answer = await client.delete("/v1/cache/models", params={"model_version": "c1"}, headers=header)
            assert answer.status_code == 403 and cache.folder.exists()

    run(scene())


def test_the_server_tells_its_version_and_load(tmp_path: Path) -> None:
    async def scene() -> None:
        async with asked(settings(tmp_path), StandIn()) as client:
            version = (await client.get("/version")).json()
            assert version.keys() == {"version"} and version == (await client.get("/api/version")).json()
            assert (await client.get("/load")).json() == {"server_load": 0}
            assert (await client.get("/")).json()["status"] == "ok"

    run(scene())
