"""What is under way, and who is told of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.calls import OpenCall
from cluster.keys import Key, new_key
from deployments.ingress.asking import AT_ONCE
from deployments.ingress.auth import CALLER_HEADER
from tests.attacks.standing_in import Method, Slow, StandIn, asked, run, settings

PROMPT = "a lighthouse that nobody else hears of"


def as_key(text: str, **headers: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}", **headers}


async def told(client: httpx.AsyncClient, key: str) -> list[dict[str, Any]]:
    answer = await client.get("/v1/requests", headers=as_key(key))
    assert answer.status_code == 200 and PROMPT not in answer.text
    rows: list[dict[str, Any]] = answer.json()["requests"]
    return rows


def test_a_key_is_told_of_its_own_requests_and_an_admin_of_all_without_what_was_asked(tmp_path: Path) -> None:
    made: dict[str, tuple[Key, str]] = {
        "ann": new_key("ann", ["list", "infer"]),
        "ben": new_key("ben", ["list", "infer"]),
        "root": new_key("root", ["admin"]),
    }
    texts = {name: text for name, (_, text) in made.items()}

    async def test() -> None:
        worker = Slow()
        supervisor = StandIn({"m": worker}, [key for key, _ in made.values()])
        async with asked(settings(tmp_path, auth="on"), supervisor) as client:
            body = {"model": "m", "items": [PROMPT]}
            headers = as_key(texts["ann"], **{"x-request-id": "mine"})
            drawing = asyncio.create_task(client.post("/v1/infer", json=body, headers=headers))
            async with asyncio.timeout(10):
                while not (rows := await told(client, texts["ann"])) or rows[0]["state"] != "running":
                    await asyncio.sleep(0.01)
            (row,) = rows
            assert (row["id"], row["model"], row["stage"], row["key"]) == ("mine", "m", "at work", "ann")
            assert row["mine"] is True and row["progress"] == 0.5 and row["age_s"] > 0
            assert await told(client, texts["ben"]) == []
            (seen,) = await told(client, texts["root"])
            assert (seen["id"], seen["key"], seen["mine"]) == ("mine", "ann", False)
            for key, status in (("ben", 404), ("ann", 404), ("root", 404)):
                # Nothing is drawn here, and who may not look is answered as if there were nothing.
                answer = await client.get("/v1/requests/mine/preview", headers=as_key(texts[key]))
                assert answer.status_code == status and PROMPT not in answer.text
            # Only its owner and an admin may stop it.
            assert (await client.delete("/v1/requests/mine", headers=as_key(texts["ben"]))).status_code == 404
            elsewhere = await client.delete("/v1/requests/mine?model=other", headers=as_key(texts["root"]))
            assert elsewhere.status_code == 404 and worker.cancelled == []
            worker.let.set()
            assert (await drawing).status_code == 200
            async with asyncio.timeout(10):
                while await told(client, texts["root"]):
                    await asyncio.sleep(0.01)

    run(test())


def test_an_admin_stops_what_somebody_else_has_asked_for(tmp_path: Path) -> None:
    (ann, ann_text), (root, root_text) = new_key("ann", ["list", "infer"]), new_key("root", ["admin"])

    async def test() -> None:
        worker = Slow()
        async with asked(settings(tmp_path, auth="on"), StandIn({"m": worker}, [ann, root])) as client:
            for text in (root_text, ann_text):
                headers = as_key(ann_text, **{"x-request-id": f"of {text[:9]}"})
                drawing = asyncio.create_task(
                    client.post("/v1/infer", json={"model": "m", "items": [PROMPT]}, headers=headers)
                )
                async with asyncio.timeout(10):
                    while not (rows := await told(client, ann_text)) or rows[0]["state"] != "running":
                        await asyncio.sleep(0.01)
                answer = await client.delete(f"/v1/requests/{rows[0]['id']}?model=m", headers=as_key(text))
                assert (answer.status_code, answer.json()) == (200, {"stopped": 1})
                assert (await drawing).status_code == 409
                async with asyncio.timeout(10):
                    while await told(client, ann_text):
                        await asyncio.sleep(0.01)

    run(test())


class SlowAndNoted(Slow):
    """Notes how often it was asked what it works on."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way, self.asks = Method(self._note), 0

    async def _note(self) -> list[OpenCall]:
        self.asks += 1
        return await self._under_way()


def test_who_stops_a_request_to_one_model_waits_for_no_other(tmp_path: Path) -> None:
    async def test() -> None:
        drawer, other = SlowAndNoted(), SlowAndNoted()
        async with asked(settings(tmp_path), StandIn({"m": drawer, "n": other})) as client:
            assert (await client.delete("/v1/requests/mine?model=m")).status_code == 404
            assert (drawer.asks, other.asks) == (1, 0)
            assert (await client.delete("/v1/requests/mine")).status_code == 404
            assert (drawer.asks, other.asks) == (2, 1)

    run(test())


class Crowd(Slow):
    """Stands in for the workers of many models: notes how many are asked, and how many at once."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way = Method(self._note)
        self.asks = self.at_once = self.most_at_once = 0

    async def _note(self) -> list[OpenCall]:
        self.asks += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.001)
        self.at_once -= 1
        return []


def test_many_who_look_or_stop_at_once_ask_workers_once_and_not_all_together(tmp_path: Path) -> None:
    async def test() -> None:
        crowd, models = Crowd(), 3 * AT_ONCE
        supervisor = StandIn({f"m{number}": crowd for number in range(models)})
        async with asked(settings(tmp_path), supervisor) as client:
            looks = [client.get("/v1/requests") for _ in range(20)]
            stops = [client.delete(f"/v1/requests/made-up-{number}") for number in range(20)]
            answers = await asyncio.gather(*looks, *stops)
            assert {answer.status_code for answer in answers} == {200, 404}
            # What has begun since the first question was put is stopped too.
            assert crowd.asks <= 2 * models and crowd.most_at_once <= AT_ONCE
            assert (await client.delete("/v1/requests/x?model=made-up")).status_code == 404

    run(test())


def test_a_request_is_stopped_that_began_after_somebody_has_looked(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Slow()
        async with asked(settings(tmp_path), StandIn({"m": worker})) as client:
            assert (await client.get("/v1/requests")).json() == {"requests": []}
            body, headers = {"model": "m", "items": [PROMPT]}, {"x-request-id": "new"}
            drawing = asyncio.create_task(client.post("/v1/infer", json=body, headers=headers))
            while not await worker._under_way():
                await asyncio.sleep(0)
            assert (await client.delete("/v1/requests/new")).json() == {"stopped": 1}
            assert (await drawing).status_code == 409

    run(test())


@pytest.mark.parametrize("scopes", [["list", "infer"], ["admin"], None])
def test_those_who_share_a_key_behind_a_gateway_see_and_stop_their_own(
    tmp_path: Path, scopes: list[str] | None
) -> None:
    """Also where the cell asks for no key."""
    shared, text = new_key("gateway", scopes or ["list"])
    place = settings(tmp_path, auth="on" if scopes else "off")

    async def test() -> None:
        async with asked(place, StandIn({"m": Slow()}, [shared])) as client:

            def as_caller(caller: str, **headers: str) -> dict[str, str]:
                return as_key(text, **{CALLER_HEADER: caller}, **headers)

            async def ids(headers: dict[str, str]) -> list[str]:
                answer = await client.get("/v1/requests", headers=headers)
                return [row["id"] for row in answer.json()["requests"]]

            ann, ben = "a" * 16, "b" * 16
            body = {"model": "m", "items": [PROMPT]}
            headers = as_caller(ann, **{"x-request-id": "anns"})
            drawing = asyncio.create_task(client.post("/v1/infer", json=body, headers=headers))
            async with asyncio.timeout(10):
                while not await ids(as_caller(ann)):
                    await asyncio.sleep(0.01)
            # What is no name of a caller counts for nothing.
            assert await ids(as_caller("ann")) == await ids(as_key(text)) == ["anns"]
            assert await ids(as_caller(ben)) == []
            assert (await client.delete("/v1/requests/anns", headers=as_caller(ben))).status_code == 404
            aborted = await client.post("/v1/models/m/requests/anns/abort", json={}, headers=as_caller(ben))
            assert aborted.json() == {"msg": "NOT_FOUND"}
            assert (await client.delete("/v1/requests/anns", headers=as_caller(ann))).json() == {"stopped": 1}
            assert (await drawing).status_code == 409
            who = (await client.get("/v1/session", headers=as_caller(ann))).json()
            assert who["name"] == ("gateway" if scopes else None)

    run(test())
