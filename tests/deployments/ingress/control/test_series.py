"""The numbers of charts over HTTP, with workers that are played."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx

from cluster.keys import new_key
from deployments.ingress import model_history
from deployments.ingress.rings import FINE_STEPS, SERIES
from tests.attacks.standing_in import CountingWorker, StandIn, asked, run, settings

HISTORY = "/v1/history"


class Mute:
    """Stands in for a worker of an earlier version, which does not say what it counts."""


async def told(client: httpx.AsyncClient, path: str, **headers: str) -> dict[str, Any]:
    answer = await client.get(path, headers=headers)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def until_told(client: httpx.AsyncClient, path: str, requests: int) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while True:
            body = await told(client, path)
            if sum(number or 0 for number in body["series"]["requests"]) == requests:
                return body
            await asyncio.sleep(0.05)


async def kept_of(client: httpx.AsyncClient, models: Iterable[str]) -> set[str]:
    """The models of which anything is told."""
    return {model for model in models if (await told(client, f"{HISTORY}?model={model}"))["series"]["p50"]}


def test_what_workers_count_is_told_by_model_and_for_all_together(tmp_path: Path) -> None:
    ann, ben = CountingWorker(), CountingWorker()

    async def scene() -> None:
        async with asked(settings(tmp_path), StandIn({"a/ann": ann, "ben": ben, "old": Mute()})) as client:
            async with asyncio.timeout(10):
                while not (ann.is_asked and ben.is_asked):
                    await asyncio.sleep(0.02)
            ann.work(3)
            ben.work(2)
            of_ann = await until_told(client, f"{HISTORY}?model=a/ann", 3)
            assert (of_ann["model"], of_ann["step_s"], list(of_ann["series"])) == ("a/ann", 1, list(SERIES))
            assert abs(of_ann["begin"] + len(of_ann["series"]["memory"]) - time.time()) < 10
            place = of_ann["series"]["requests"].index(3.0)
            assert of_ann["series"]["tokens"][place] == 30.0 and of_ann["series"]["waiting"][place] == 4.0
            assert 0.08 < of_ann["series"]["p50"][place] < 0.12 and of_ann["series"]["memory"][place] == 1000.0
            of_all = await until_told(client, f"{HISTORY}?series=requests,p99", 5)
            assert (of_all["model"], list(of_all["series"])) == (None, ["requests", "p99"])
            assert of_all["ingress"] and of_all["since"] <= of_ann["begin"]
            later = await told(client, f"{HISTORY}?model=ben&since={time.time() + 100}")
            assert later["series"]["requests"] == []
            assert (await told(client, f"{HISTORY}?since={time.time() - FINE_STEPS - 60}"))["step_s"] == 15
            assert (await told(client, f"{HISTORY}?step_s=15"))["step_s"] == 15
            assert (await told(client, f"{HISTORY}?model=old"))["series"]["requests"] == []
            for query, sentence in (
                ("series=x", "There is no series 'x'"),
                ("step_s=7", "step_s"),
                ("since=x", "since"),
            ):
                answer = await client.get(f"{HISTORY}?{query}")
                assert answer.status_code in (400, 422) and sentence in answer.text
            assert (await client.get(f"{HISTORY}?model=nowhere")).status_code == 400

    run(scene())


def test_a_key_is_told_only_of_its_models_also_of_all_together(tmp_path: Path) -> None:
    (limited, text), (other, _) = new_key("ann", ["list"], ["ann"]), new_key("root", ["admin"])
    ann, ben = CountingWorker(), CountingWorker()

    async def scene() -> None:
        place = settings(tmp_path, auth="on")
        async with asked(place, StandIn({"ann": ann, "ben": ben}, [limited, other])) as client:
            client.headers["authorization"] = f"Bearer {text}"
            async with asyncio.timeout(10):
                while not (ann.is_asked and ben.is_asked):
                    await asyncio.sleep(0.02)
            ann.work(3)
            ben.work(100)
            body = await until_told(client, HISTORY, 3)
            assert set(body["series"]["p50"]) == {None}
            assert (await client.get(f"{HISTORY}?model=ben")).status_code == 403

    run(scene())


def test_a_model_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    supervisor = StandIn({"m": CountingWorker(), "n": CountingWorker()})

    async def scene() -> None:
        async with asked(settings(tmp_path), supervisor) as client:
            async with asyncio.timeout(10):
                while not (await told(client, f"{HISTORY}?model=m"))["series"]["memory"]:
                    await asyncio.sleep(0.05)
                del supervisor.workers["m"]
                supervisor.version += 1
                while (await client.get(f"{HISTORY}?model=m")).status_code == 200:
                    await asyncio.sleep(0.05)
                seconds = len((await told(client, f"{HISTORY}?model=n"))["series"]["memory"])
                while len((await told(client, f"{HISTORY}?model=n"))["series"]["memory"]) < seconds + 2:
                    await asyncio.sleep(0.05)
                supervisor.workers["m"] = Mute()
                supervisor.version += 1
                while (answer := await client.get(f"{HISTORY}?model=m")).status_code != 200:
                    await asyncio.sleep(0.05)
            assert answer.json()["series"]["memory"] == []

    run(scene())


def test_only_so_many_models_are_kept_and_those_that_work_go_first(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(model_history, "MOST_MODELS", 2)
    workers = {name: CountingWorker() for name in ("a", "b", "c")}
    for worker in workers.values():
        worker.waiting = 0

    async def scene() -> None:
        async with asked(settings(tmp_path), StandIn(workers)) as client:
            async with asyncio.timeout(10):
                while not all(worker.is_asked for worker in workers.values()):
                    await asyncio.sleep(0.02)
            async with asyncio.timeout(10):
                while len(kept := await kept_of(client, workers)) < 2:
                    await asyncio.sleep(0.02)
            (left_out,) = workers.keys() - kept
            workers[left_out].work(1)
            await until_told(client, f"{HISTORY}?model={left_out}", 1)
            kept = await kept_of(client, workers)
            assert left_out in kept and len(kept) == 2

    run(scene())
