"""A key in all the ways in which clients send one."""

from __future__ import annotations

import base64
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from cluster.keys import new_key
from deployments.gateway.app import PUBLIC
from deployments.ingress.auth import keyless_reason, presented_key, public_calls
from tests.attacks.standing_in import StandIn, asked, run, settings


def basic(pair: str) -> str:
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"authorization": "Bearer ck-1"}, "ck-1"),
        ({"authorization": "bearer  ck-1 "}, "ck-1"),
        ({"authorization": basic("me:ck-1")}, "ck-1"),
        ({"authorization": basic(":ck-1")}, "ck-1"),
        ({"authorization": basic("ck-1:")}, "ck-1"),
        ({"authorization": basic("ck-1")}, "ck-1"),
        ({"authorization": basic("me:with:colons")}, "with:colons"),
        ({"authorization": "Basic not base64"}, None),
        ({"authorization": "Basic /////w=="}, None),
        ({"authorization": "Bearer "}, None),
        ({"authorization": "token ck-1"}, "ck-1"),
        ({"authorization": "Digest ck-1"}, None),
        ({"api-key": "ck-1"}, "ck-1"),
        ({"x-api-key": " ck-1"}, "ck-1"),
        ({"authorization": "Bearer ck-1", "x-api-key": "ck-2"}, "ck-1"),
        ({"authorization": "Bearer ", "x-api-key": "ck-2"}, "ck-2"),
        ({}, None),
    ],
)
def test_a_key_comes_in_many_ways(headers: dict[str, str], key: str | None) -> None:
    assert presented_key(headers) == key


def test_who_logs_in_gets_the_key_that_is_the_password(tmp_path: Path) -> None:
    key, text = new_key("may", ["list"])
    other, infers = new_key("infers", ["infer"])

    async def scene() -> None:
        async with asked(settings(tmp_path, auth="on"), StandIn(keys=(key, other))) as client:
            answer = await client.post("/token", json={"username": "me", "password": text})
            assert answer.json() == {"access_token": text, "token_type": "bearer"}
            for wrong, status in (("ck-no", 401), ("", 401), (infers, 403)):
                refused = await client.post("/token", json={"username": "me", "password": wrong})
                assert refused.status_code == status and "access_token" not in refused.text
        async with asked(settings(tmp_path), StandIn()) as client:
            answer = await client.post("/token", json={"username": "me", "password": "any"})
            assert answer.json()["access_token"] == "any"

    run(scene())


def test_each_way_opens_what_the_key_is_for_and_no_more(tmp_path: Path) -> None:
    key, text = new_key("may", ["list"])

    async def scene() -> None:
        async with asked(settings(tmp_path, auth="on"), StandIn(keys=(key,))) as client:
            for way in ({"api-key": text}, {"x-api-key": text}, {"authorization": basic(f"user:{text}")}):
                assert (await client.get("/v1/models", headers=way)).status_code == 200
                assert (await client.post("/v1/embeddings", headers=way, json={"input": "a"})).status_code == 403
            answer = await client.get("/v1/models", auth=httpx.BasicAuth("user", text))
            assert answer.status_code == 200
            for wrong in ({"api-key": "ck-no"}, {"authorization": basic("user:ck-no")}):
                answer = await client.get("/v1/models", headers=wrong)
                assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"

    run(scene())


def test_these_routes_ask_for_no_key_and_no_others(app_routes: list[BaseRoute]) -> None:
    reasons = {
        (method, route.path): reason
        for route in app_routes
        if isinstance(route, APIRoute) and (reason := keyless_reason(route))
        for method in route.methods or ()
    }
    public = {call for call, reason in reasons.items() if reason == "public"}
    assert public == set(public_calls(app_routes)) == PUBLIC
    assert reasons.keys() - public == {
        ("GET", "/v1/files/{name}.{format}"),
        ("POST", "/token"),
        ("POST", "/v1/cluster/join"),
        ("POST", "/v1/cluster/leave"),
        ("POST", "/v1/login"),
    }
