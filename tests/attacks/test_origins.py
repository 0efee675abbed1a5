"""A foreign page in a user's browser can neither read from a server nor make it do anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Request

from cluster.keys import new_key
from cluster.settings import Settings
from deployments.ingress.auth import public_calls
from deployments.ingress.files import KeptFiles
from tests.attacks.standing_in import StandIn, asked, every_call, opened, run, served, settings
from tests.deployments.ingress.route_tables import REFUSALS
from tests.live import LiveCluster, free_port

STRANGER = "http://stranger.example"
PAGE = "http://localhost:3000"
LAUNCH = b'{"model_name": "echo", "model_uid": "mine"}'
#: The stand-in loads nothing, so nothing may wait for that.
LAUNCHING = "/v1/models?wait_ready=false"


def refusal(answer: httpx.Response, about: str) -> None:
    assert answer.status_code == 403, (answer.status_code, answer.text)
    if answer.request.method != "HEAD":
        assert answer.json()["error"]["type"] == "permission_error" and about in answer.json()["detail"]
    assert answer.headers["x-request-id"]
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("headers", "about"),
    [
        ({"host": "stranger.example:9997"}, "allowed_hosts"),
        ({"host": "stranger.example", "origin": STRANGER}, "allowed_hosts"),
        ({"origin": STRANGER}, "allowed_origins"),
        ({"origin": "null"}, "allowed_origins"),
        ({"origin": "http://127.0.0.1:3000"}, "allowed_origins"),
        ({"origin": "http://localhost:9997"}, "allowed_origins"),
        ({"sec-fetch-site": "cross-site"}, "allowed_origins"),
        ({"sec-fetch-site": "same-site"}, "allowed_origins"),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, "allowed_origins"),
    ],
)
def test_every_route_with_every_method_refuses_a_stranger(tmp_path: Path, headers: dict[str, str], about: str) -> None:
    async def test() -> None:
        place, supervisor = settings(tmp_path), StandIn()
        async with opened(place, supervisor) as app:
            # Seven thousand requests: a client would need most of the time for itself.
            transport = httpx.ASGITransport(app)
            calls = every_call(app)
            assert len(calls) > 90
            paths = {path for _, path in calls} - {"/v1/files/x.x"} | {"/nowhere"}
            for path in sorted(paths):
                for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
                    request = httpx.Request(method, f"{place.url}{path}", headers=headers, content=LAUNCH)
                    answer = await transport.handle_async_request(request)
                    answer.request = request
                    await answer.aread()
                    refusal(answer, about)
        assert set(supervisor.told) <= {"changes"}

    run(test())


def test_every_route_but_the_public_ones_asks_for_a_key_where_keys_are_asked_for(tmp_path: Path) -> None:
    async def test() -> None:
        place, supervisor = settings(tmp_path, auth="on"), StandIn({"secret-model": None})
        async with opened(place, supervisor) as app:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url=place.url) as client:
                public = set(public_calls(app.routes))
                for method, path in every_call(app):
                    for key in ({}, {"authorization": "Bearer ck-wrong"}):
                        answer = await client.request(method, path, headers=key)
                        if (method, path) not in public:
                            wanted = {**REFUSALS, "/v1/files/x.x": 404}.get(path, 401)
                            assert answer.status_code == wanted, (method, path, answer.text)
                        assert "secret-model" not in answer.text, path
        assert set(supervisor.told) <= {"changes"}

    run(test())


async def launched(tmp_path: Path, headers: dict[str, str], **fields: Any) -> tuple[httpx.Response, bool]:
    supervisor = StandIn()
    async with asked(settings(tmp_path, **fields), supervisor) as client:
        answer = await client.post(LAUNCHING, content=LAUNCH, headers=headers)
        return answer, bool(supervisor.launched)


CURL = {"content-type": "application/x-www-form-urlencoded"}
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        (CURL, {}),
        ({}, {}),
        ({**CURL, "host": "localhost:1234"}, {}),
        ({**JSON, "origin": "http://127.0.0.1:9997"}, {}),
        ({**JSON, "host": "[::1]:9997", "origin": "http://[::1]:9997"}, {}),
        ({**JSON, "host": "models.lan", "origin": "https://models.lan"}, {"allowed_hosts": "Models.LAN"}),
        ({**JSON, "origin": PAGE}, {"allowed_origins": f"{PAGE}/"}),
        ({**CURL, "host": "10.1.2.3:9997"}, {"host": "0.0.0.0", "auth": "off"}),
    ],
)
def test_who_is_no_stranger_drives_it(tmp_path: Path, headers: dict[str, str], fields: dict[str, Any]) -> None:
    async def test() -> None:
        answer, has_launched = await launched(tmp_path, headers, **fields)
        assert answer.status_code == 200 and has_launched, answer.text

    run(test())


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
@pytest.mark.parametrize("origin", ["http://127.0.0.1:9997", PAGE])
def test_a_page_sends_json_as_json_or_not_at_all(tmp_path: Path, kind: str, origin: str) -> None:
    async def test() -> None:
        headers = {"origin": origin, "content-type": kind}
        answer, has_launched = await launched(tmp_path, headers, allowed_origins=PAGE)
        assert answer.status_code == 422 and not has_launched
        assert "application/json" in answer.json()["detail"]

    run(test())


def test_a_page_that_is_allowed_may_ask_and_read(tmp_path: Path) -> None:
    async def test() -> None:
        async with asked(settings(tmp_path, allowed_origins=PAGE), StandIn()) as client:
            leave = {"access-control-request-method": "DELETE", "access-control-request-headers": "content-type"}
            answer = await client.options("/v1/models/x", headers={"origin": PAGE, **leave})
            assert answer.status_code == 204
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert answer.headers["access-control-allow-methods"] == "DELETE"
            assert answer.headers["access-control-allow-headers"] == "content-type"
            for path in ("/v1/models", "/nowhere"):
                answer = await client.get(path, headers={"origin": PAGE})
                assert answer.headers["access-control-allow-origin"] == PAGE and answer.headers["vary"] == "Origin"
                assert "access-control-allow-credentials" not in answer.headers
            refusal(await client.options("/v1/models/x", headers={"origin": STRANGER, **leave}), "allowed_origins")
            for headers in ({}, {"origin": "http://127.0.0.1:9997"}):
                answer = await client.get("/v1/models", headers=headers)
                assert not [name for name in answer.headers if name.startswith("access-control")]

    run(test())


def test_any_page_may_ask_models_with_a_key_where_that_is_wished_and_do_nothing_else(tmp_path: Path) -> None:
    async def test() -> None:
        key, text = new_key("page", ["admin"])
        place = settings(tmp_path, auth="on", allowed_origins="*")
        async with asked(place, StandIn(keys=[key])) as client:
            leave = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
            page = {"origin": STRANGER, "authorization": f"Bearer {text}"}
            for path in ("/v1/embeddings", "/v1/images/jobs/job-1", "/sdapi/v1/txt2img"):
                answer = await client.options(path, headers={"origin": STRANGER, **leave})
                assert answer.status_code == 204 and answer.headers["access-control-allow-origin"] == "*"
                assert (await client.post(path, headers={"origin": STRANGER})).status_code in (401, 405)
                answer = await client.post(path, headers=page, json={})
                assert answer.status_code in (400, 405, 422) and answer.headers["access-control-allow-origin"] == "*"
            for path in ("/v1/models", "/v1/keys", "/metrics", "/v1/statuses", "/v1/models/x"):
                refusal(await client.options(path, headers={"origin": STRANGER, **leave}), "allowed_origins")
                refusal(await client.get(path, headers=page), "allowed_origins")

    run(test())


def test_a_link_may_lead_here_and_a_picture_may_be_shown_anywhere(tmp_path: Path) -> None:
    async def test() -> None:
        async with asked(settings(tmp_path), StandIn()) as client:
            link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
            assert (await client.get("/docs", headers=link)).status_code == 200
            refusal(await client.post("/v1/models", headers=link), "allowed_origins")
            picture = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
            assert (await client.get("/v1/files/x.png", headers=picture)).status_code == 404
            refusal(await client.get("/v1/models", headers=picture), "allowed_origins")
            typed = {"sec-fetch-site": "none", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
            assert (await client.get("/v1/models", headers=typed)).status_code == 200

    run(test())


@pytest.mark.parametrize(
    ("host", "begins"),
    [
        ("stranger.example", "http://127.0.0.1:9997/v1/files/"),
        ("stranger.example/x?", "http://127.0.0.1:9997/v1/files/"),
        ("127.0.0.1:9997@stranger.example", "http://127.0.0.1:9997/v1/files/"),
        ("models.lan:80", "http://models.lan:80/v1/files/"),
    ],
)
def test_addresses_of_pictures_lead_to_no_stranger(tmp_path: Path, host: str, begins: str) -> None:
    async def test() -> None:
        place = settings(tmp_path, auth="on", allowed_hosts="models.lan")
        request = Request(
            {
                "type": "http",
                "scheme": "http",
                "path": "/",
                "query_string": b"",
                "server": ("127.0.0.1", 9997),
                "headers": [(b"host", host.encode())],
            }
        )
        files = KeptFiles(place)
        assert files.keep(b"x", "png", files.address_for(request)).startswith(begins)

    run(test())


PLAIN = {"accept-encoding": "identity"}


def test_head_is_answered_as_get_without_the_body(tmp_path: Path) -> None:
    async def test() -> None:
        place = settings(tmp_path, port=free_port())
        async with served(place, StandIn()) as url, httpx.AsyncClient(base_url=url) as client:
            for path in ("/health", "/ping", "/ready", "/v1/models", "/v1/models/x/status?wait=0", "/docs"):
                answer, whole = [await client.request(method, path, headers=PLAIN) for method in ("HEAD", "GET")]
                assert answer.status_code == whole.status_code and answer.content == b"", path
                assert abs(int(answer.headers["content-length"]) - len(whole.content)) < 5, path
            assert (await client.head("/v1/embeddings")).status_code == 405
            assert (await client.get("/health")).status_code == 200, "the connection goes on"

    run(test())


def test_a_page_that_posts_a_launch_runs_no_command_on_the_machine(live: LiveCluster, tmp_path: Path) -> None:
    """Everything together that once started a shell within 5 s: a body that needs no preflight, and two variables that
    make Python open a browser whose command is the shell."""
    marker = tmp_path / "it-ran"
    body = {
        "model_name": "echo",
        "model_uid": "from-a-page",
        "envs": {"PYTHONWARNINGS": "ignore::antigravity.Warning", "BROWSER": f"/bin/sh -c 'touch {marker}' #%s"},
    }
    headers = {"content-type": "text/plain", "origin": STRANGER, "host": "stranger.example"}
    for name in ("origin", "host", ""):
        sent = {key: value for key, value in headers.items() if key != name}
        answer = httpx.post(f"{live.url}/v1/models?wait_ready=true&timeout=10", json=body, headers=sent, timeout=30)
        assert answer.status_code == 403, answer.text
    assert "from-a-page" not in live.get("/v1/statuses").text
    assert not marker.exists()


@pytest.mark.parametrize(
    ("fields", "about"),
    [
        ({"allowed_origins": "*"}, "auth=on"),
        ({"allowed_origins": "null"}, "is not an origin"),
        ({"allowed_origins": "localhost:3000"}, "is not an origin"),
        ({"allowed_origins": "http://a.example/page"}, "is not an origin"),
        ({"allowed_hosts": "http://a.example"}, "is not a host name"),
        ({"allowed_hosts": "*"}, "is not a host name"),
    ],
)
def test_a_setting_that_would_let_strangers_in_is_refused(fields: dict[str, Any], about: str) -> None:
    with pytest.raises(ValueError, match=about):
        Settings(**fields)
