"""Answers and errors: which class a response becomes, what a connection that fails becomes."""

from __future__ import annotations

import socket

import httpx
import pytest

from cluster import Client, errors
from cluster.client.http import http_options, parse
from tests.cluster.client.fake_server import error_body

REQUEST = httpx.Request("GET", "http://h:1/v1/models")


@pytest.mark.parametrize("code", errors.every_error())
def test_every_error_comes_back_as_its_class(code: str) -> None:
    kind = errors.every_error()[code]
    response = httpx.Response(kind.status, json=error_body(kind("It is so."), ("line",)), request=REQUEST)
    with pytest.raises(kind) as raised:
        parse(response)
    assert type(raised.value) is kind
    assert (raised.value.message, raised.value.retry_after_s) == ("It is so.", None)
    assert raised.value.log_tail == ("line",)


def test_an_error_in_the_shape_of_text_embeddings_inference_comes_back_as_its_class() -> None:
    body = {"error": "It is too long.", "error_type": "Validation", "code": "input_too_long", "param": "input"}
    with pytest.raises(errors.InputTooLong) as raised:
        parse(httpx.Response(422, json=body, request=REQUEST))
    assert (raised.value.message, raised.value.param) == ("It is too long.", "input")


FOREIGN = [
    (httpx.Response(404, json={"detail": "Not Found"}), errors.ClusterError, "answered 404: Not Found."),
    (httpx.Response(502, text="<html>Bad Gateway</html>"), errors.Unavailable, "<html>Bad Gateway</html>"),
    (httpx.Response(422, json={"detail": [{"msg": "no"}]}), errors.InvalidBody, "[{'msg': 'no'}]"),
    (httpx.Response(401, json={"detail": "Who?"}), errors.NotAuthenticated, "Who?"),
    (httpx.Response(500), errors.ClusterError, "Internal Server Error"),
    (httpx.Response(400, json={"error": "no", "detail": "Bad."}), errors.BadRequest, "Bad."),
    (httpx.Response(400, json=[]), errors.BadRequest, "answered 400"),
    (httpx.Response(429, json={"error": "Busy", "error_type": "Overloaded"}), errors.Overloaded, "answered 429: Busy."),
]


@pytest.mark.parametrize(("response", "kind", "said"), FOREIGN, ids=lambda value: getattr(value, "status_code", ""))
def test_an_answer_without_our_code_says_who_said_what(response: httpx.Response, kind: type, said: str) -> None:
    response.request = REQUEST
    with pytest.raises(errors.ClusterError) as raised:
        parse(response)
    assert type(raised.value) is kind
    assert said in raised.value.message
    assert "http://h:1/v1/models" in raised.value.message


@pytest.mark.parametrize(("header", "seconds"), [("30", 30.0), ("0.5", 0.5), ("Wed, 21 Oct 2026 07:28:00 GMT", None)])
def test_retry_after_is_on_the_error(header: str, seconds: float | None) -> None:
    body = error_body(errors.Overloaded("Full."))
    with pytest.raises(errors.Overloaded) as raised:
        parse(httpx.Response(429, headers={"Retry-After": header}, json=body, request=REQUEST))
    assert raised.value.retry_after_s == seconds


def test_what_is_not_json_is_an_error() -> None:
    with pytest.raises(errors.ClusterError, match="not JSON: 'hello'"):
        parse(httpx.Response(200, text="hello", request=REQUEST))


def test_no_body_is_none() -> None:
    assert parse(httpx.Response(200, request=REQUEST)) is None


def test_nobody_listens() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with Client(url) as client, pytest.raises(errors.Unavailable) as raised:
            client.version()
    assert raised.value.message == f"Nothing answers at {url}; start a cluster with `cluster up`."


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        (httpx.ReadTimeout("late"), errors.DeadlineExceeded),
        (httpx.RemoteProtocolError("gone"), errors.Unavailable),
        (httpx.ReadError(""), errors.Unavailable),
    ],
    ids=["slow", "cut off", "without a word"],
)
def test_a_connection_that_breaks_is_an_error_of_ours(broken: httpx.HTTPError, kind: type) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise broken

    with Client("http://h:1", transport=httpx.MockTransport(answer)) as client, pytest.raises(kind) as raised:
        client.version()
    assert "GET /v1/cluster/version" in str(raised.value)


@pytest.mark.parametrize("url", ["ftp://h", "http://h:x"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(errors.BadRequest, match="not the address of a cluster"):
        with Client(url) as client:
            client.version()


@pytest.mark.parametrize(
    ("url", "through_proxy"),
    [("http://127.0.0.1:9997", False), ("localhost:9997", False), ("http://cluster.example", True)],
)
def test_this_machine_is_never_asked_through_a_proxy(url: str, through_proxy: bool) -> None:
    assert http_options(url, None, 1.0)["trust_env"] is through_proxy


def test_a_long_poll_may_take_longer_than_other_calls() -> None:
    seen: list[float] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.extensions["timeout"]["read"])
        return httpx.Response(400, json=error_body(errors.UnknownUid("m is not launched.")))

    with Client("http://h:1", timeout=2.0, transport=httpx.MockTransport(answer)) as client:
        for version in (None, 1):
            with pytest.raises(errors.UnknownUid):
                client.status("m", version, wait_s=30)
    assert seen == [2.0, 32.0]
