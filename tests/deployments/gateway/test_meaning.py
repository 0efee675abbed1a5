"""What a request is to a gateway, and which model it names."""

from __future__ import annotations

import asyncio

import pytest

from deployments.gateway.meaning import RequestKind, kind_of, model_in_body, model_in_path

MULTIPART = 'multipart/form-data; boundary="x"'


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("GET", "/v1/models", RequestKind.LIST),
        ("GET", "/v1/models/m/status", RequestKind.LOOKUP),
        ("POST", "/v1/models", RequestKind.LAUNCH),
        ("POST", "/v1/plan", RequestKind.LAUNCH),
        ("POST", "/v1/models/apply", RequestKind.CHANGE),
        ("DELETE", "/v1/models/m", RequestKind.CHANGE),
        ("POST", "/v1/models/m/requests/1/abort", RequestKind.ABORT),
        ("DELETE", "/v1/requests/1", RequestKind.ABORT),
        ("GET", "/v1/requests/1/preview", RequestKind.LOOKUP),
        ("DELETE", "/v1/images/jobs/1", RequestKind.LOOKUP),
        ("POST", "/v1/embeddings", RequestKind.INFER),
        ("PUT", "/process", RequestKind.INFER),
    ],
)
def test_what_a_request_is(method: str, path: str, kind: RequestKind) -> None:
    assert kind_of(method, path) is kind


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/models/org/m", "org/m"),
        ("/v1/models/org/m/status", "org/m"),
        ("/v1/models/m/replicas/2", "m"),
        ("/v1/models/m/requests/1/abort", "m"),
        ("/v1/models/families", None),
        ("/v1/models/vllm-supported", None),
        ("/v1/embeddings", None),
    ],
)
def test_the_model_of_a_route_about_models(path: str, name: str | None) -> None:
    assert model_in_path(path) == name


@pytest.mark.parametrize(
    ("kind", "query", "body", "name"),
    [
        ("application/json", b"", b'{"model":"m","input":"x"}', "m"),
        ("application/json", b"", b'{"input":{"model":"inner"},"model":"m"}', "m"),
        ("application/json", b"", b'{"model":"m\\u00e9","input":"x"}', "mé"),
        ("application/json", b"", b'{"input":"x"}', None),
        ("application/json", b"", b'{"model":7}', None),
        ("application/json", b"", b"[1, 2]", None),
        ("application/json", b"", b"no json", None),
        ("application/json", b"model=m%2Fn", b'{"inputs":"x"}', "m/n"),
        ("application/json", b"", b'{"input":"' + b"x" * 100_000 + b'","model":"m"}', "m"),
        # So many values are refused by the cell, and not read here.
        ("application/json", b"", b'{"input":[' + b"{}," * 60_000 + b'1],"model":"m"}', None),
        ("application/json", b"", b'{"model":"' + b"m" * 301 + b'"}', None),
        ("application/x-www-form-urlencoded", b"", b"prompt=x&model=m%2Fn", "m/n"),
        (MULTIPART, b"", b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--x--\r\n', "m"),
        (
            MULTIPART,
            b"",
            b'--x\r\nContent-Disposition: form-data; name="model"\r\nContent-Type: text/plain\r\n\r\nm\r\n--x--\r\n',
            "m",
        ),
        (MULTIPART, b"model=m", b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nm\r\n--x--\r\n', "m"),
    ],
)
def test_the_model_that_a_body_or_an_address_names(kind: str, query: bytes, body: bytes, name: str | None) -> None:
    assert asyncio.run(model_in_body(kind, query, body)) == name
