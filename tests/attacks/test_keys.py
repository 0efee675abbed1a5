"""A key sees only its own models and its own requests; anything else looks as if it did not exist."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.keys import SCOPES, Key, new_key
from tests.attacks.standing_in import PATIENCE_S, Slow, StandIn, asked, every_call, opened, run, settings

MINE, OTHER, NOWHERE = "mine", "other-model", "nowhere-too"
ALL_BUT_ADMIN = [scope for scope in SCOPES if scope != "admin"]


def made(*scopes: str, models: list[str] | None = None) -> tuple[Key, dict[str, str]]:
    key, text = new_key("somebody", scopes, models)
    return key, {"authorization": f"Bearer {text}"}


def bodies(uid: str) -> list[dict[str, Any]]:
    """A body for every route that asks a model."""
    texts = {"input": ["a"], "inputs": "a", "texts": ["a"], "query": "a", "documents": ["a"], "items": ["a"]}
    sides = {"text_1": "a", "text_2": ["a"], "queries": ["a"], "ids": [1]}
    picture = {"prompt": "a", "image": "AAEC", "document": {"type": "image_url", "image_url": "AAEC"}}
    chat = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "AAEC"}}]}]}
    return [
        {"model": uid, **texts, **sides, **chat},
        {"model": uid, "input": [1]},
        {"model": uid, "inputs": {"source_sentence": "a", "sentences": ["a"]}},
        {"model": uid, "prompt": "a"},
        {"model": uid, **{name: picture[name] for name in ("image",)}},
        {"model": uid, "document": picture["document"]},
        {"model_name": "echo", "model_uid": uid, "replica": 1},
        {"sd_model_checkpoint": uid},
    ]


def test_no_answer_tells_whether_another_model_exists(tmp_path: Path) -> None:
    """Every route, asked for a model that is there and for one that is not: the answers are the same."""

    async def test() -> None:
        key, header = made(*ALL_BUT_ADMIN, models=[MINE])
        place, supervisor = settings(tmp_path, auth="on"), StandIn({MINE: None, OTHER: Slow()}, [key])
        tried = 0
        async with opened(place, supervisor) as app:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url=place.url, headers=header) as client:

                async def ask(method: str, path: str, uid: str, body: dict[str, Any] | None) -> tuple[int, str]:
                    answer = await client.request(
                        method,
                        path.replace("UID", uid),
                        params={"model": uid, "model_uid": uid, "model_name": uid} if method == "GET" else {},
                        json=body,
                        headers={"x-request-id": "one"},
                    )
                    return answer.status_code, answer.text.replace(uid, "UID")

                for method, path in every_call(app, uid="UID"):
                    # What tells the time or the memory of the moment.
                    told = ("/health", "/ping", "/ready", "/status", "/metrics", "/sdapi/v1/memory")
                    if path in told or (method, path) == ("GET", "/"):
                        continue
                    pairs = zip(bodies(OTHER), bodies(NOWHERE), strict=True) if method == "POST" else [(None, None)]
                    for here, nowhere in pairs:
                        first = await ask(method, path, OTHER, here)
                        second = await ask(method, path, NOWHERE, nowhere)
                        assert first == second, (method, path, here)
                        assert first[0] != 500, (method, path, first)
                        tried += 1
        assert tried > 500 and not supervisor.launched

    run(test())


def test_what_is_listed_is_what_the_key_is_for(tmp_path: Path) -> None:
    async def test() -> None:
        (limited, only_mine), (whole, all_of_them) = made("list", "infer", models=[MINE]), made("list")
        supervisor = StandIn({MINE: Slow(), OTHER: None}, [limited, whole])
        async with opened(settings(tmp_path, auth="on"), supervisor) as app:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                telling = []
                for method, path in every_call(app, uid=MINE):
                    if method == "GET" and not path.startswith("/v1/keys"):
                        answer = await client.get(path, headers=only_mine)
                        assert OTHER not in answer.text, (path, answer.text)
                        if OTHER in (await client.get(path, headers=all_of_them)).text:
                            telling.append(path)
                        assert OTHER not in (await client.get(path)).text, path
        # For a key that may see the model these routes do tell.
        for path in ("/ready", "/metrics", "/v1/statuses", "/v1/workers", "/v1/models/instances"):
            assert path in telling

    run(test())


def test_an_unknown_name_is_answered_with_the_nearest_few_that_the_key_may_use(tmp_path: Path) -> None:
    async def test() -> None:
        uids = {f"model-{number}": None for number in range(40)}
        (limited, few), (whole, all_of_them) = made("infer", models=["model-1", "model-2"]), made("infer")
        async with asked(settings(tmp_path, auth="on"), StandIn(uids, [limited, whole])) as client:
            answer = await client.post("/v1/infer", json={"model": "modl-1", "items": []}, headers=all_of_them)
            assert answer.status_code == 404 and answer.json()["detail"].count("'model-") == 5
            assert "'model-1'" in answer.json()["detail"]
            answer = await client.post("/v1/infer", json={"model": "modl-1", "items": []}, headers=few)
            assert answer.status_code == 403 and answer.json()["detail"].endswith("['model-1', 'model-2']")
            answer = await client.post("/v1/infer", json={"items": []}, headers=all_of_them)
            assert answer.status_code == 400 and "and 35 more" in answer.json()["detail"]
            for name in ("x" * 5_000_000, "\ud83d\ude80" * 1000):
                answer = await client.post("/v1/infer", json={"model": name, "items": []}, headers=all_of_them)
                assert answer.status_code == 404 and len(answer.content) < 2000

    run(test())


async def until_it_runs(client: httpx.AsyncClient, headers: dict[str, str], id: str = "same") -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answer = await client.get(f"/v1/requests/{id}/progress", headers=headers)
            if answer.status_code == 200 and answer.json()["stage"] == "at work":
                return
            await asyncio.sleep(0.01)


def test_the_id_of_a_request_belongs_to_the_key_that_sent_it(tmp_path: Path) -> None:
    async def test() -> None:
        (first, one), (second, two) = made("infer"), made("infer")
        worker = Slow()
        async with asked(settings(tmp_path, auth="on"), StandIn({MINE: worker}, [first, second])) as client:

            async def infer(headers: dict[str, str], item: str) -> httpx.Response:
                body = {"model": MINE, "items": [item], "ability": "infer"}
                return await client.post("/v1/infer", json=body, headers={**headers, "x-request-id": "same"})

            async def abort(headers: dict[str, str], id: str = "same", block_s: float = 0) -> str:
                path = f"/v1/models/{MINE}/requests/{id}/abort"
                answer = await client.post(path, json={"block_duration": block_s}, headers=headers)
                return str(answer.json()["msg"])

            asking = asyncio.create_task(infer(one, "a"))
            await until_it_runs(client, one)
            unknown = await client.get("/v1/requests/same/progress", headers=two)
            nowhere = await client.get("/v1/requests/nowhere/progress", headers=two)
            assert unknown.status_code == nowhere.status_code == 404
            assert unknown.json()["detail"] == nowhere.json()["detail"].replace("nowhere", "same")
            # The name under which workers know it does not help either, and nobody can block another key's ids.
            for id in ("same", f"same@{first.id}", f"same@{first.id}%23", "same%23", "same%40" + first.id):
                assert await abort(two, id, block_s=60) == "NOT_FOUND", id
            assert not asking.done()

            # The same id under another key is a different request.
            also = asyncio.create_task(infer(two, "b"))
            await asyncio.sleep(0)
            assert await abort(one) == "DONE"
            answer = await asking
            assert answer.status_code == 409 and "same" in answer.json()["detail"]
            assert first.id not in answer.text, "what is told of an id is what the caller sent"
            also_answered = await also
            assert also_answered.status_code == 409, "two has blocked its own id"
            worker.let.set()
            assert (await infer(one, "c")).json()["results"] == ["c"]

    run(test())


def test_a_key_for_some_models_makes_no_keys(tmp_path: Path) -> None:
    async def test() -> None:
        key, header = made("admin", models=[MINE])
        async with asked(settings(tmp_path, auth="on"), StandIn({MINE: None}, [key])) as client:
            for method, path in (("POST", "/v1/keys"), ("GET", "/v1/keys"), ("DELETE", "/v1/keys/x")):
                answer = await client.request(method, path, headers=header, json={"name": "more"})
                assert answer.status_code == 403, (method, path, answer.text)

    run(test())


@pytest.mark.parametrize("uid", [OTHER, NOWHERE, "x" * 300])
def test_watching_another_model_is_refused_whether_it_exists_or_not(tmp_path: Path, uid: str) -> None:
    async def test() -> None:
        key, header = made("list", "infer", models=[MINE])
        async with asked(settings(tmp_path, auth="on"), StandIn({MINE: None, OTHER: None}, [key])) as client:
            for path in ("", "/status", "/events", "/logs", "/progress", "/replicas"):
                answer = await client.get(f"/v1/models/{uid}{path}", headers=header)
                assert answer.status_code == 403 and len(answer.json()["detail"]) < 200, (path, answer.text)

    run(test())
