from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from cluster.keys import Key, new_key
from tests.attacks.standing_in import StandIn, asked, run, settings

ANN, ANNS_KEY = new_key("ann", ["list", "infer"], ["mine"])
WORKS, WORKS_KEY = new_key("works", ["infer"])


def keeper(*keys: Key) -> StandIn:
    return StandIn({"mine": None, "theirs": None}, keys=keys or (ANN, WORKS))


def logged_in(answer: httpx.Response) -> str:
    return answer.headers["set-cookie"]


def test_a_browser_logs_in_with_a_key_and_is_known_by_a_cookie_that_is_another(tmp_path: Path) -> None:
    async def scene() -> None:
        async with asked(settings(tmp_path, auth="on"), keeper()) as client:
            for path in ("/v1/session", "/v1/changes"):
                assert (await client.get(path)).status_code == 401
            answer = await client.post("/v1/login", json={"key": ANNS_KEY})
            assert answer.status_code == 200 and answer.json()["seconds"] > 0
            cookie = logged_in(answer)
            assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Path=/" in cookie
            assert ANNS_KEY not in cookie and "Secure" not in cookie
            who = (await client.get("/v1/session")).json()
            assert who == {"name": "ann", "scopes": ["list", "infer"], "models": ["mine"]}
            assert [row["uid"] for row in (await client.get("/v1/statuses")).json()] == ["mine"]
            refused = await client.post("/v1/models", json={"model_name": "echo"})
            assert refused.status_code == 403

    run(scene())


@pytest.mark.parametrize(("body", "status"), [({"key": "ck-wrong"}, 401), ({"key": WORKS_KEY}, 403), ({}, 422)])
def test_no_key_and_one_that_may_not_list_open_nothing(tmp_path: Path, body: dict[str, str], status: int) -> None:
    async def scene() -> None:
        async with asked(settings(tmp_path, auth="on"), keeper()) as client:
            answer = await client.post("/v1/login", json=body)
            assert answer.status_code == status and "set-cookie" not in answer.headers

    run(scene())


def test_over_https_the_cookie_is_sent_over_https_only(tmp_path: Path) -> None:
    async def scene() -> None:
        async with asked(settings(tmp_path, auth="on"), keeper()) as client:
            origin = {"origin": "https://models.example", "host": "models.example"}
            answer = await client.post("/v1/login", json={"key": ANNS_KEY}, headers=origin)
            assert "Secure" in logged_in(answer)

    run(scene())


def test_the_cookie_counts_for_the_pages_of_this_server_only(tmp_path: Path) -> None:
    """Also where another origin is let in, and where any may ask models: the cookie is the user's and not theirs."""

    async def scene() -> None:
        friend = "http://friend.example"
        for origins in (friend, "*"):
            async with asked(settings(tmp_path, auth="on", allowed_origins=origins), keeper()) as client:
                await client.post("/v1/login", json={"key": ANNS_KEY})
                body = {"model": "mine", "items": [1]}
                answer = await client.post("/v1/infer", json=body, headers={"origin": friend})
                assert answer.status_code == 401, origins
                own = {"origin": str(client.base_url).rstrip("/")}
                assert (await client.get("/v1/session", headers=own)).status_code == 200

    run(scene())


def test_a_key_in_a_header_counts_before_the_cookie(tmp_path: Path) -> None:
    async def scene() -> None:
        async with asked(settings(tmp_path, auth="on"), keeper()) as client:
            await client.post("/v1/login", json={"key": ANNS_KEY})
            answer = await client.get("/v1/session", headers={"authorization": f"Bearer {WORKS_KEY}"})
            assert answer.status_code == 403

    run(scene())


def test_logging_out_ends_the_session_everywhere(tmp_path: Path) -> None:
    async def scene() -> None:
        async with asked(settings(tmp_path, auth="on"), keeper()) as client:
            await client.post("/v1/login", json={"key": ANNS_KEY})
            copied = dict(client.cookies)
            answer = await client.delete("/v1/session")
            assert answer.status_code == 200 and "Max-Age=0" in logged_in(answer)
            client.cookies.update(copied)
            assert (await client.get("/v1/session")).status_code == 401

    run(scene())


def test_without_keys_everybody_may_do_everything(tmp_path: Path) -> None:
    async def scene() -> None:
        async with asked(settings(tmp_path), keeper()) as client:
            who = (await client.get("/v1/session")).json()
            assert who == {"name": None, "scopes": ["list", "infer", "launch", "admin"], "models": None}
            assert (await client.post("/v1/login", json={"key": "x"})).status_code == 200

    run(scene())
