"""Bodies of JSON and of forms are read alike: each field under one name, files in their order."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from fastapi import Request

from cluster import errors
from deployments.ingress.body_reader import BodyReader, BodySchema, Upload

SCHEMA = BodySchema(
    fields=("prompt", "seed", "languages"),
    files={"image": "images", "image[]": "images", "mask": "mask"},
    aliases={"lang": "languages"},
    max_files=2,
    max_file_bytes=10,
    json_in_forms=("seed",),
)


def read(**sent: Any) -> tuple[Mapping[str, Any], list[Upload]]:
    """What the reader makes of a request by httpx."""

    async def decode(value: object, name: str, index: int) -> bytes:
        return f"{name} {index} {value}".encode()

    request = httpx.Request("POST", "http://x/", **sent)
    scope = {
        "type": "http",
        "method": "POST",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": request.read(), "more_body": False}

    return asyncio.run(BodyReader(SCHEMA, decode).read(Request(scope, receive)))


def test_json_and_a_form_say_the_same() -> None:
    fields = {"prompt": "a", "seed": [1, 2], "languages": "en"}
    assert read(json={**fields, "mask": None, "image": "x"}) == (fields, [Upload("images", b"image 0 x")])
    form = {"prompt": "a", "seed": "[1, 2]", "lang": "en", "mask": "", "image": "x"}
    assert read(files={name: (None, value) for name, value in form.items()}) == (
        fields,
        [Upload("images", b"image 0 x")],
    )
    assert read(data=form) == (fields, [Upload("images", b"image 0 x")])


def test_files_keep_their_order_and_their_names() -> None:
    files = [("mask", ("C:\\a\\m.png", b"m")), ("image[]", ("i.png", b"i"))]
    assert read(files=files) == ({}, [Upload("mask", b"m", "m.png"), Upload("images", b"i", "i.png")])
    assert read(json={"image": ["x", "y"]})[1] == [Upload("images", b"image 0 x"), Upload("images", b"image 1 y")]


@pytest.mark.parametrize("nested", [{"seed": 1, "prompt": "inner"}, '{"seed": 1, "prompt": "inner"}'])
def test_what_stands_outside_counts_before_what_is_nested(nested: object) -> None:
    assert read(json={"prompt": "outer", "kwargs": nested})[0] == {"prompt": "outer", "seed": 1}
    assert read(json={"extra_body": {"prompt": "last"}, "kwargs": nested})[0] == {"prompt": "last", "seed": 1}


def test_nothing_nested_is_nothing() -> None:
    for nothing in (None, "", "  ", {}, {"seed": None}):
        assert read(json={"kwargs": nothing}) == ({}, [])


@pytest.mark.parametrize(
    ("sent", "error", "param", "said"),
    [
        ({"json": {"promt": "a"}}, errors.InvalidBody, "promt", "There is no field 'promt'; did you mean 'prompt'?"),
        ({"json": {"kwargs": {"sede": 1}}}, errors.InvalidBody, "sede", "There is no field 'sede'"),
        ({"json": {"kwargs": {"image": "x"}}}, errors.InvalidBody, "image", "There is no field 'image'"),
        ({"json": {"kwargs": [1]}}, errors.InvalidBody, "kwargs", "kwargs must be an object"),
        ({"json": {"kwargs": "{"}}, errors.InvalidBody, "kwargs", "kwargs must be JSON"),
        ({"json": {"image": ["a", "b", "c"]}}, errors.TooLarge, "image", "The request has 3 files, 2 are allowed."),
        ({"files": {"prompt": ("a.txt", b"a")}}, errors.InvalidBody, "prompt", "prompt must be text, not a file."),
        ({"files": {"mask": ("a", b"a" * 11)}}, errors.TooLarge, "mask", "mask has 11 bytes, 10 are allowed."),
        ({"files": {"seed": (None, "{")}}, errors.InvalidBody, "seed", "seed must be JSON"),
    ],
)
def test_what_does_not_fit_is_named(sent: Any, error: type[errors.ClusterError], param: str, said: str) -> None:
    with pytest.raises(error) as caught:
        read(**sent)
    assert caught.value.param == param and caught.value.message.startswith(said)
