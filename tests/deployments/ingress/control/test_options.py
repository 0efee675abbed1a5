from __future__ import annotations

from pathlib import Path

from cluster.launch import LaunchSpec
from tests.attacks.standing_in import StandIn, asked, run, settings


def test_the_options_of_a_model_are_what_its_launch_takes(tmp_path: Path) -> None:
    async def scene() -> None:
        async with asked(settings(tmp_path), StandIn()) as client:
            body = (await client.get("/v1/options/rerank/ce-tiny")).json()
            assert body["launch"]["properties"].keys() == LaunchSpec.model_fields.keys()
            assert "long_documents" in body["family"]["properties"]
            assert body["engines"] and body["variants"][0]["quantizations"]
            unknown = await client.get("/v1/options/rerank/ce-tinny")
            assert unknown.status_code == 400 and "ce-tiny" in unknown.json()["detail"]

    run(scene())


def test_the_catalogue_has_every_model_once(tmp_path: Path) -> None:
    async def scene() -> None:
        async with asked(settings(tmp_path), StandIn()) as client:
            rows = (await client.get("/v1/catalog")).json()
            names = [(row["type"], row["name"]) for row in rows]
            assert len(set(names)) == len(names) > 50
            assert all(row["abilities"] for row in rows)

    run(scene())
