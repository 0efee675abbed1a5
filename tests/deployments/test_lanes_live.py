"""Requests of batches before a real worker, and one that somebody waits for."""

from __future__ import annotations

import asyncio

import httpx

from cluster import Client
from tests.live import LiveCluster, until

BATCH = 100


def test_who_waits_for_an_answer_overtakes_a_batch_and_the_batch_is_answered_as_well(live: LiveCluster) -> None:
    with live.client() as client:
        # Four inputs at once, a fifth of a second each time: a batch takes ten seconds.
        client.launch_model("narrow", model_uid="lanes", run_seconds=0.2)
        answered = asyncio.run(_answered(live.url, client))
        assert len(answered) == BATCH + 1
        # It is larger than those of the batch, and younger: by size or age it would be the last.
        assert answered.index("talk") < BATCH * 0.8
        refused = live.post("/v1/infer", {"model": "lanes", "items": ["x"]}, headers={"x-priority": "now"})
        assert refused.status_code == 400 and "interactive or batch" in refused.json()["detail"]
        client.terminate_model("lanes")


async def _answered(url: str, ours: Client) -> list[str]:
    """Who was answered, in turn."""
    answered: list[str] = []

    def has_most() -> bool:
        return ours.scale_of("lanes")["requests"] > BATCH / 2

    async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=BATCH + 1)) as client:

        async def ask(name: str, items: int, priority: str) -> None:
            body = {"model": "lanes", "items": [f"{name} {number}" for number in range(items)]}
            answer = await client.post("/v1/infer", json=body, headers={"x-priority": priority})
            assert answer.status_code == 200, answer.text
            answered.append(name)

        async with asyncio.TaskGroup() as callers:
            for number in range(BATCH):
                callers.create_task(ask(f"b{number}", 2, "batch"))
            await asyncio.to_thread(until, has_most, within=30)
            callers.create_task(ask("talk", 4, "interactive"))
    return answered
