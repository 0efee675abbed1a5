"""The openai package and pictures: generate, edit, create_variation, and streams of both."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.live import LiveCluster
from tests.painted import Journal, corners, filled, half, opened, painted_colour, painting_quick_and_slow

STEP_S = 0.4
RED = (255, 0, 0)


@pytest.fixture(scope="module")
def painter(live: LiveCluster, journal: Journal) -> Iterator[str]:
    with painting_quick_and_slow(live, "openai", journal, STEP_S) as uid:
        yield uid


@pytest.fixture
def client(live: LiveCluster, painter: str) -> Iterator[openai.OpenAI]:
    """Strict, so that an answer that is not all that the package describes is an error."""
    strict = {"_strict_response_validation": True}
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, **strict) as client:
        yield client


def test_a_text_becomes_pictures(client: openai.OpenAI, painter: str) -> None:
    answer = client.images.generate(
        model=painter,
        prompt="a red cat",
        n=2,
        size="96x64",
        quality="low",
        background="opaque",
        moderation="low",
        output_format="webp",
        output_compression=90,
        user="me",
    )
    assert (answer.background, answer.output_format, answer.quality, answer.size) == ("opaque", "webp", "low", "96x64")
    assert len(answer.data) == 2 and answer.data[0].url is None and answer.data[0].revised_prompt is None
    image = opened(answer.data[0].b64_json)
    assert image.format == "WEBP" and image.size == (96, 64)
    assert answer.usage.output_tokens == answer.usage.output_tokens_details.image_tokens == 2 * 24
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


def test_what_openai_does_not_know_goes_as_extra_body(client: openai.OpenAI, painter: str) -> None:
    extra = {"seed": 77, "num_inference_steps": 3, "negative_prompt": "dogs", "guidance_scale": 2.5}
    answer = client.images.generate(model=painter, prompt="a", extra_body=extra)
    assert answer.data[0].seed == 77
    assert answer.data[0].receipt["num_inference_steps"] == 3 and answer.data[0].receipt["negative_prompt"] == "dogs"


def test_an_address_is_one(client: openai.OpenAI, painter: str) -> None:
    answer = client.images.generate(model=painter, prompt="sea", response_format="url")
    assert answer.data[0].b64_json is None
    assert corners(opened(httpx.get(answer.data[0].url).content))[0] == painted_colour("sea")


def test_pictures_are_edited_where_the_mask_is_transparent(client: openai.OpenAI, painter: str) -> None:
    mask = half((0, 0, 0, 0), (0, 0, 0, 255), mode="RGBA")
    answer = client.images.edit(model=painter, image=filled("red"), mask=mask, prompt="sea")
    assert corners(opened(answer.data[0].b64_json)) == (painted_colour("sea"), RED)
    one = client.images.edit(model=painter, image=io.BytesIO(filled("red")), prompt="sea", input_fidelity="high")
    several = client.images.edit(
        model=painter, image=[("a.png", filled("red")), ("b.png", filled("blue"))], prompt="sea", n=2, size="32x32"
    )
    assert corners(opened(one.data[0].b64_json))[0][0] > 100
    assert len(several.data) == 2 and opened(several.data[0].b64_json).size == (32, 32)


def test_a_variation_has_no_prompt(client: openai.OpenAI, painter: str) -> None:
    answer = client.images.create_variation(image=filled("red"), model=painter, n=2, size="64x64")
    assert len(answer.data) == 2 and opened(answer.data[0].b64_json).size == (64, 64)
    assert client.images.create_variation(image=filled("red")).data


def test_a_stream_shows_what_is_under_way(client: openai.OpenAI) -> None:
    asked = {"model": "openai-slow", "prompt": "sea", "stream": True, "partial_images": 2}
    events = list(client.images.generate(**asked, extra_body={"steps": 6}))
    assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    shares = [corners(opened(event.b64_json))[0][2] / painted_colour("sea")[2] for event in events]
    assert shares[0] < shares[1] < shares[2] == 1
    assert events[-1].usage.total_tokens > 0 and events[-1].size == "64x64"


def test_an_edit_is_streamed_under_names_of_its_own(client: openai.OpenAI) -> None:
    asked = {"model": "openai-slow", "image": filled("red"), "prompt": "sea", "stream": True, "partial_images": 1}
    types = [event.type for event in client.images.edit(**asked)]
    assert types == ["image_edit.partial_image", "image_edit.completed"]


def test_what_fails_on_the_way_is_raised(client: openai.OpenAI) -> None:
    asked = {"model": "openai-slow", "prompt": "told to fail", "stream": True, "partial_images": 3}
    with pytest.raises(openai.APIError, match="told to fail"):
        list(client.images.generate(**asked))


def test_a_stream_that_is_closed_stops_the_model(client: openai.OpenAI, journal: Journal) -> None:
    asked = {"model": "openai-slow", "prompt": "close me", "stream": True, "partial_images": 3}
    stream = client.images.generate(**asked, extra_body={"steps": 20})
    assert next(iter(stream)).type == "image_generation.partial_image"
    ran = journal.wait_for("close me", 1)
    stream.close()
    assert journal.after("close me", 3 * STEP_S) <= ran + 1


def test_the_async_client_gets_the_same(live: LiveCluster, client: openai.OpenAI, painter: str) -> None:
    async def draw() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as other:
            asked = [other.images.generate(model=painter, prompt=word) for word in ("sea", "sky")]
            return [answer.data[0].b64_json for answer in await asyncio.gather(*asked)]  # type: ignore[misc]

    wanted = [client.images.generate(model=painter, prompt=word).data[0].b64_json for word in ("sea", "sky")]
    assert asyncio.run(draw()) == wanted


@pytest.mark.parametrize(
    ("asked", "raises", "param"),
    [
        ({"size": "enormous"}, openai.UnprocessableEntityError, "size"),
        ({"n": 0}, openai.UnprocessableEntityError, "n"),
        ({"background": "transparent"}, openai.BadRequestError, "background"),
        ({"model": "nowhere"}, openai.NotFoundError, "model"),
        ({"extra_body": {"sede": 1}}, openai.UnprocessableEntityError, "sede"),
    ],
)
def test_what_cannot_be_done_is_raised_as_what_it_is(
    client: openai.OpenAI, painter: str, asked: dict[str, Any], raises: Any, param: str
) -> None:
    with pytest.raises(raises) as raised:
        client.images.generate(**{"model": painter, "prompt": "a", **asked})
    assert raised.value.param == param


def test_a_picture_that_is_none_is_told(client: openai.OpenAI, painter: str) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="image is not a (readable )?picture") as raised:
        client.images.edit(model=painter, image=b"nothing", prompt="a")
    assert raised.value.param == "image"
