"""Which keys each route accepts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from cluster import Client, errors
from deployments.ingress.auth import keyless_reason
from tests.deployments.ingress.route_tables import DRAWING, EXAMPLES, READING, REFUSALS, SERVING, STOPPING, TALKING
from tests.live import LiveCluster, until


@pytest.fixture(scope="module")
def admin(locked: LiveCluster) -> Iterator[Client]:
    """`cluster up` makes the first key and keeps it for the user's own commands."""
    (kept,) = (locked.home / "auth").iterdir()
    assert kept.stat().st_mode & 0o077 == 0
    with locked.client(kept.read_text().strip()) as client:
        uids = [client.launch_model("echo", model_uid=uid) for uid in ("first-model", "second-model")]
        yield client
        for uid in uids:
            client.terminate_model(uid)


def key_for(admin: Client, *scopes: str, models: list[str] | None = None) -> dict[str, Any]:
    return admin.create_key(" ".join(scopes), scopes, models)


@pytest.fixture(scope="module")
def ask(locked: LiveCluster, admin: Client) -> Iterator[Callable[..., httpx.Response]]:
    with httpx.Client(base_url=locked.url, timeout=30) as http:

        def ask(method: str, path: str, key: str | None, body: Any = None) -> httpx.Response:
            headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
            return http.request(method, path, headers=headers, json=body)

        yield ask


@pytest.fixture(scope="module")
def reasons(app_routes: list[BaseRoute]) -> dict[tuple[str, str], str | None]:
    """Why a call asks for no key."""
    return {
        (method, route.path_format): keyless_reason(route)
        for route in app_routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }


def every_call(described: dict[str, Any], reasons: dict[tuple[str, str], str | None]) -> list[tuple[str, str]]:
    """Method and path of each route, including those that are not described."""
    calls = [(method.upper(), path) for path, methods in described.items() for method in methods]
    return calls + [call for call in reasons if call[0] == "GET" and call not in calls]


@pytest.mark.slow
def test_no_route_is_open_but_those_that_say_nothing(
    ask: Callable[..., httpx.Response],
    admin: Client,
    described: dict[str, dict[str, Any]],
    reasons: dict[tuple[str, str], str | None],
) -> None:
    calls = every_call(described, reasons)
    assert len(calls) > 40 and ("GET", "/ping") in calls
    for method, path in calls:
        for key in (None, "None", "ck-" + "x" * 43, admin_like(admin)):
            answer = ask(method, path, key)
            reason = reasons.get((method, path))
            if reason == "public":
                assert answer.status_code in (200, 307), (method, path, answer.text)
            elif reason == "proven":
                assert answer.status_code == REFUSALS.get(path, 401), (method, path, answer.text)
            else:
                assert answer.status_code == 401, (method, path, key, answer.text)
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.json()["error"]["type"] == "authentication_error"
                assert answer.json()["detail"].startswith("Could not validate credentials")


def admin_like(admin: Client) -> str:
    """The real key with another last letter."""
    key = admin.driver.http.headers["authorization"].removeprefix("Bearer ")
    return key[:-1] + ("a" if key[-1] != "a" else "b")


@pytest.mark.slow
def test_public_routes_name_no_model(
    ask: Callable[..., httpx.Response], admin: Client, reasons: dict[tuple[str, str], str | None]
) -> None:
    public = [call for call, reason in reasons.items() if reason == "public"]
    assert ("GET", "/ready") in public
    for method, path in public:
        assert "first-model" not in ask(method, path, None).text


@pytest.mark.slow
def test_the_description_of_the_routes_is_closed_too(ask: Callable[..., httpx.Response], admin: Client) -> None:
    assert ask("GET", "/openapi.json", None).status_code == 401
    for path in ("/redoc", "/docs/oauth2-redirect"):
        assert ask("GET", path, None).status_code == 404


@pytest.mark.slow
def test_a_key_in_the_address_or_under_another_scheme_does_not_count(
    ask: Callable[..., httpx.Response], locked: LiveCluster, admin: Client
) -> None:
    key = admin.driver.http.headers["authorization"].removeprefix("Bearer ")
    assert ask("GET", f"/v1/models?api_key={key}", None).status_code == 401
    basic = httpx.get(f"{locked.url}/v1/models", headers={"Authorization": f"Basic {key}"})
    assert basic.status_code == 401
    assert ask("GET", "/v1/models", key).status_code == 200


@pytest.mark.slow
def test_a_key_does_what_its_scope_says_and_nothing_else(
    ask: Callable[..., httpx.Response],
    admin: Client,
    described: dict[str, dict[str, Any]],
    reasons: dict[tuple[str, str], str | None],
) -> None:
    infer = key_for(admin, "infer")["key"]
    for method, path in every_call(described, reasons):
        tags = set(described.get(path, {}).get(method.lower(), {}).get("tags", ()))
        if reasons.get((method, path)) or tags & (SERVING | DRAWING | READING | TALKING | STOPPING | EXAMPLES):
            continue
        answer = ask(method, path, infer)
        assert answer.status_code == 403, (method, path, answer.text)
        assert answer.json()["error"]["type"] == "permission_error"
    assert ask("POST", "/v1/infer", infer, {"model": "first-model", "items": [1]}).json()["results"] == [1]
    launch = {"model_name": "echo", "model_uid": "third-model"}
    assert ask("POST", "/v1/models", infer, launch).status_code == 403

    list_only = key_for(admin, "list")["key"]
    assert {row["id"] for row in ask("GET", "/v1/models", list_only).json()["data"]} == {"first-model", "second-model"}
    assert ask("POST", "/v1/infer", list_only, {"model": "first-model", "items": [1]}).status_code == 403
    assert ask("DELETE", "/v1/models/first-model", list_only).status_code == 403
    assert ask("GET", "/v1/keys", list_only).status_code == 403

    launch_only = key_for(admin, "launch")["key"]
    assert ask("POST", "/v1/models?dry_run=true", launch_only, launch).json()["fits"] is True
    assert ask("POST", "/v1/infer", launch_only, {"model": "first-model", "items": [1]}).status_code == 403
    assert ask("POST", "/v1/keys", launch_only, {"name": "more", "scopes": ["admin"]}).status_code == 403
    assert {row["id"] for row in admin.list_models().values()} == {"first-model", "second-model"}


@pytest.mark.slow
def test_a_key_for_some_models_touches_no_others(ask: Callable[..., httpx.Response], admin: Client) -> None:
    key = key_for(admin, "infer", "list", "launch", models=["first-model"])["key"]
    assert ask("POST", "/v1/infer", key, {"model": "first-model", "items": [1]}).json()["results"] == [1]
    refused = ask("POST", "/v1/infer", key, {"model": "second-model", "items": [1]})
    assert refused.status_code == 403 and "does not have access to model: second-model" in refused.json()["detail"]
    # The same model in another spelling.
    assert ask("POST", "/v1/infer", key, {"model": "SECOND-MODEL", "items": [1]}).status_code == 403
    assert ask("GET", "/v1/models/first-model/status", key).status_code == 200
    for method, path, body in (
        ("GET", "/v1/models/second-model/logs", None),
        ("GET", "/v1/models/second-model/status", None),
        ("DELETE", "/v1/models/second-model", None),
        ("POST", "/v1/models/second-model/scale", {"replica": 2}),
        ("POST", "/v1/models", {"model_name": "echo", "model_uid": "third-model"}),
        ("POST", "/v1/models/apply", {"models": []}),
        ("GET", "/v1/models/export", None),
        ("DELETE", "/v1/model_registrations/embedding/any", None),
    ):
        assert ask(method, path, key, body).status_code == 403, (method, path)


@pytest.mark.slow
def test_a_revoked_key_stops_working(ask: Callable[..., httpx.Response], admin: Client) -> None:
    made = key_for(admin, "infer")
    call = ("POST", "/v1/infer", made["key"], {"model": "first-model", "items": [1]})
    assert ask(*call).status_code == 200
    assert made["key"] not in json.dumps(admin.list_keys())
    admin.revoke_key(made["id"])
    until(lambda: ask(*call).status_code == 401, within=5)
    with pytest.raises(errors.BadRequest, match="no key with the id"):
        admin.revoke_key(made["id"])


@pytest.mark.slow
def test_our_client_raises_what_a_key_may_not(locked: LiveCluster, admin: Client) -> None:
    with locked.client() as nobody, pytest.raises(errors.NotAuthenticated):
        nobody.list_models()
    with locked.client(key_for(admin, "infer")["key"]) as limited, pytest.raises(errors.NotPermitted, match="launch"):
        limited.launch_model("echo", model_uid="third-model")


@pytest.mark.slow
def test_keys_are_stored_as_hashes_only(locked: LiveCluster, admin: Client) -> None:
    made = key_for(admin, "infer")
    stored = b"".join(file.read_bytes() for file in locked.home.glob("cluster.db*"))
    assert made["id"].encode() in stored and made["key"].encode() not in stored
