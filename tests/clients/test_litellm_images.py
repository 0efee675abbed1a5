"""LiteLLM and pictures, with the `api_base` that its documentation gives for each provider."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from typing import Any

import httpx
import litellm
import pytest

from tests.live import LiveCluster
from tests.painted import corners, filled, half, opened, painted_colour, painting


@pytest.fixture(scope="module")
def painter(live: LiveCluster) -> Iterator[str]:
    with painting(live, "lite-painter") as uid:
        yield uid


@pytest.fixture
def base(live: LiveCluster, painter: str) -> dict[str, Any]:
    return {"api_base": f"{live.url}/v1", "api_key": "none"}


@pytest.mark.parametrize("provider", ["xinference", "openai"])
def test_a_text_becomes_pictures(base: dict[str, Any], painter: str, provider: str) -> None:
    answer = litellm.image_generation(model=f"{provider}/{painter}", prompt="sea", n=2, size="96x64", **base)
    assert len(answer.data) == 2
    # No format was asked for, so the picture is in the answer and need not be fetched.
    image = opened(answer.data[0].b64_json)
    assert image.size == (96, 64) and corners(image)[0] == painted_colour("sea")


def test_an_address_can_be_asked_for(base: dict[str, Any], painter: str) -> None:
    answer = litellm.image_generation(model=f"xinference/{painter}", prompt="sea", response_format="url", **base)
    assert opened(httpx.get(answer.data[0].url).content).size == (64, 64)


def test_what_it_does_not_know_is_passed_on(base: dict[str, Any], painter: str) -> None:
    sent = {"seed": 5, "kwargs": '{"num_inference_steps": 2}'}
    answers = [litellm.image_generation(model=f"xinference/{painter}", prompt="sea", **sent, **base) for _ in range(2)]
    other = litellm.image_generation(model=f"xinference/{painter}", prompt="sea", **{**sent, "seed": 6}, **base)
    assert answers[0].data[0].b64_json == answers[1].data[0].b64_json != other.data[0].b64_json


def test_the_async_call_gets_the_same(base: dict[str, Any], painter: str) -> None:
    asked = {"model": f"xinference/{painter}", "prompt": "sea", **base}
    answer = asyncio.run(litellm.aimage_generation(**asked))
    assert answer.data[0].b64_json == litellm.image_generation(**asked).data[0].b64_json


def test_pictures_are_edited_as_openais(base: dict[str, Any], painter: str) -> None:
    red = io.BytesIO(filled("red"))
    mask = io.BytesIO(half((0, 0, 0, 0), (0, 0, 0, 255), mode="RGBA"))
    answer = litellm.image_edit(model=f"openai/{painter}", image=red, mask=mask, prompt="sea", **base)
    assert corners(opened(answer.data[0].b64_json)) == (painted_colour("sea"), (255, 0, 0))
    several = [io.BytesIO(filled("red")), io.BytesIO(filled("blue"))]
    answer = litellm.image_edit(model=f"openai/{painter}", image=several, prompt="sea", n=2, size="64x64", **base)
    assert len(answer.data) == 2


def test_a_variation_names_no_model(base: dict[str, Any], painter: str) -> None:
    answer = litellm.image_variation(model=f"openai/{painter}", image=filled("red"), **base)
    assert answer.data[0].b64_json or answer.data[0].url


def test_errors_are_its_own(base: dict[str, Any], painter: str) -> None:
    with pytest.raises(litellm.exceptions.NotFoundError, match="uid: nowhere"):
        litellm.image_generation(model="xinference/nowhere", prompt="a", **base)
    with pytest.raises(litellm.exceptions.BadRequestError, match="size takes auto"):
        litellm.image_generation(model=f"xinference/{painter}", prompt="a", size="huge", **base)
