"""The names of a server, and which pages are its own."""

from __future__ import annotations

import timeit

import pytest

from cluster.settings import Settings
from deployments.ingress.origins import OriginMiddleware, Origins, is_inert

LOOPBACK = Origins.of(Settings(allowed_hosts="models.lan,10.0.0.7"))


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:9997", "LOCALHOST:1", "localhost.", "localhost.:80"),
        *("127.0.0.1", "127.0.0.1:9997", "127.8.8.8:1", "[::1]", "[::1]:9997", "[0:0:0:0:0:0:0:1]:80"),
        *("models.lan", "Models.Lan.:443", "10.0.0.7:9997"),
    ],
)
def test_these_are_names_of_a_server_on_loopback(host: str) -> None:
    assert LOOPBACK.knows(host)


@pytest.mark.parametrize(
    "host",
    [
        *("stranger.example", "stranger.example:9997", "localhost.stranger.example", "stranger.example.localhost"),
        *(
            "127.0.0.1.stranger.example",
            "127.0.0.1@stranger.example",
            "localhost:80@stranger.example",
            "localhost:80:80",
        ),
        *("localhost:", "localhost:x", "localhost:123456", "[::1", "::1", "[::1]x", "[127.0.0.1", "localhost..", "."),
        *("10.0.0.8", "0.0.0.0:9997", "[::2]", "127.1", "0x7f000001", "2130706433", "0177.0.0.1", "١٢٧.0.0.1"),
        *("localhost,stranger.example", "localhost stranger.example", "localhost/", "localhost\n", "", "a" * 100_000),
    ],
)
def test_these_are_not(host: str) -> None:
    assert not LOOPBACK.knows(host)


def test_beyond_loopback_any_address_in_numbers_is_one_and_a_strange_name_is_not() -> None:
    everywhere = Origins.of(Settings(host="0.0.0.0", auth="off"))
    assert everywhere.knows("203.0.113.9:9997") and everywhere.knows("[2001:db8::1]:9997")
    assert not everywhere.knows("stranger.example:9997")
    assert not everywhere.takes_any_host and Origins.of(Settings(host="0.0.0.0")).takes_any_host


def test_a_page_is_its_own_by_either_scheme_and_under_the_very_name_and_port() -> None:
    assert Origins.is_own("http://localhost:9997", "localhost:9997")
    assert Origins.is_own("https://models.lan", "models.lan")
    for origin in (
        "http://localhost",
        "http://localhost:99970",
        "http://127.0.0.1:9997",
        "null",
        "",
        "ws://localhost:9997",
    ):
        assert not Origins.is_own(origin, "localhost:9997")
    assert not Origins.is_own("http://", "")


def test_only_a_visit_and_a_picture_are_inert() -> None:
    assert is_inert("GET", "/docs", b"navigate", b"document")
    assert is_inert("GET", "/v1/files/x.png", b"no-cors", b"image")
    assert not is_inert("POST", "/docs", b"navigate", b"document")
    assert not is_inert("POST", "/v1/files/x.png", b"no-cors", b"image")
    # Documents that somebody uploaded.
    for path in ("/v1/files", "/v1/files/x", "/v1/files/x.y/content", "/v1/files/x/url"):
        assert not is_inert("GET", path, b"no-cors", b"image")
    assert not is_inert("GET", "/docs", b"navigate", b"iframe")
    assert not is_inert("GET", "/v1/models", b"no-cors", b"script")
    assert not is_inert("GET", "/v1/models", None, None)


def test_it_costs_a_request_some_microseconds() -> None:
    async def nothing(scope: object, receive: object, send: object) -> None: ...

    headers = [(b"host", b"127.0.0.1:9997"), *((b"x-%d" % number, b"y") for number in range(8))]
    scope = {"type": "http", "method": "POST", "path": "/v1/embeddings", "headers": headers}
    middleware = OriginMiddleware(nothing, LOOPBACK, [])

    def ask() -> None:
        try:
            middleware(scope, None, None).send(None)
        except StopIteration:
            return

    ask()
    assert min(timeit.repeat(ask, number=1000, repeat=5)) / 1000 < 50e-6
