"""Xinference's own client and pictures."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from xinference_client import AsyncRESTfulClient, RESTfulClient
from xinference_client.client.restful.restful_client import RESTfulImageModelHandle

from tests.documented import CLIENT
from tests.live import LiveCluster
from tests.painted import (
    Journal,
    blended,
    corners,
    filled,
    half,
    is_near,
    opened,
    painted_colour,
    painting_quick_and_slow,
)

STEP_S = 0.4
RED = (255, 0, 0)


@pytest.fixture(scope="module")
def painter(live: LiveCluster, journal: Journal) -> Iterator[str]:
    with painting_quick_and_slow(live, "xinf", journal, STEP_S) as uid:
        yield uid


@pytest.fixture
def model(client: RESTfulClient, painter: str) -> RESTfulImageModelHandle:
    return client.get_model(painter)


@pytest.fixture
def slow(client: RESTfulClient) -> RESTfulImageModelHandle:
    return client.get_model("xinf-slow")


@pytest.fixture
def client(live: LiveCluster, painter: str) -> Iterator[RESTfulClient]:
    client = RESTfulClient(live.url)
    yield client
    client.close()


@pytest.mark.documented(CLIENT, "text_to_image")
def test_a_text_becomes_pictures_at_real_addresses(model: RESTfulImageModelHandle) -> None:
    answer = model.text_to_image("sea", n=2, size="96*64", seed=5, num_inference_steps=2, negative_prompt="dogs")
    assert answer["created"] > 0 and [row["b64_json"] for row in answer["data"]] == [None, None]
    image = opened(httpx.get(answer["data"][0]["url"]).content)
    assert image.size == (96, 64) and corners(image)[0] == painted_colour("sea")
    assert answer["data"][0]["receipt"]["num_inference_steps"] == 2 and answer["data"][0]["seed"] == 5
    inline = model.text_to_image("sea", size="96*64", seed=5, num_inference_steps=2, response_format="b64_json")
    assert opened(inline["data"][0]["b64_json"]).tobytes() == image.tobytes()


@pytest.mark.documented(CLIENT, "image_to_image")
def test_a_picture_becomes_another(model: RESTfulImageModelHandle) -> None:
    answer = model.image_to_image(
        filled("red"), "sea", negative_prompt="dogs", n=2, response_format="b64_json", strength=0.25
    )
    assert len(answer["data"]) == 2
    assert is_near(corners(opened(answer["data"][0]["b64_json"]))[0], blended(RED, painted_colour("sea"), 0.25))
    several = model.image_to_image([filled("red"), filled("blue")], "sea", size="32*32", response_format="b64_json")
    assert opened(several["data"][0]["b64_json"]).size == (32, 32)


@pytest.mark.documented(CLIENT, "image_edit")
def test_pictures_are_edited(model: RESTfulImageModelHandle, tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    path.write_bytes(filled("red"))
    for images in (filled("red"), [filled("red")], str(path), [str(path), filled("blue")]):
        answer = model.image_edit(images, "sea", response_format="b64_json", strength=0.5)
        assert is_near(corners(opened(answer["data"][0]["b64_json"]))[0], blended(RED, painted_colour("sea")))
    masked = model.image_edit(filled("red"), "sea", mask=half("white", "black"), response_format="b64_json")
    assert corners(opened(masked["data"][0]["b64_json"])) == (painted_colour("sea"), RED)


@pytest.mark.documented(CLIENT, "inpainting")
def test_white_is_painted_anew(model: RESTfulImageModelHandle) -> None:
    answer = model.inpainting(filled("red"), half("black", "white"), "sea", response_format="b64_json")
    assert corners(opened(answer["data"][0]["b64_json"])) == (RED, painted_colour("sea"))


@pytest.mark.documented(CLIENT, "abort_request", "get_progress")
def test_a_request_is_followed_and_aborted_by_its_id(
    client: RESTfulClient, slow: RESTfulImageModelHandle, journal: Journal
) -> None:
    with ThreadPoolExecutor() as threads:
        asked = {"request_id": "xinf-1", "num_inference_steps": 50}
        answer = threads.submit(slow.text_to_image, "abort me", **asked)
        journal.wait_for("abort me", 2)
        assert 0 < client.get_progress("xinf-1")["progress"] < 1
        ran = journal.wait_for("abort me", 3)
        client.abort_request("xinf-slow", "xinf-1", block_duration=30)
        with pytest.raises(RuntimeError, match="The request has been cancelled: xinf-1"):
            answer.result()
    assert journal.after("abort me", 3 * STEP_S) <= ran + 1
    # Its id is refused for the time that was asked for.
    with pytest.raises(RuntimeError, match="The request has been aborted: xinf-1"):
        slow.text_to_image("abort me", request_id="xinf-1")
    # A request that does not exist cannot be aborted and has no progress.
    client.abort_request("xinf-slow", "xinf-none")
    with pytest.raises(RuntimeError, match="No request 'xinf-none' is known"):
        client.get_progress("xinf-none")


def test_bad_requests_say_what_is_wrong(model: RESTfulImageModelHandle) -> None:
    with pytest.raises(RuntimeError, match="size takes auto or a width and a height"):
        model.text_to_image("a", size="large")
    with pytest.raises(RuntimeError, match="There is no field 'seeed'; did you mean 'seed'"):
        model.text_to_image("a", seeed=1)
    with pytest.raises(RuntimeError, match="image is not a (readable )?picture"):
        model.image_to_image(b"nothing", "a")


def test_the_async_client_gets_the_same(live: LiveCluster, model: RESTfulImageModelHandle, journal: Journal) -> None:
    async def draw() -> dict[str, object]:
        client = AsyncRESTfulClient(live.url)
        other = await client.get_model("xinf-painter")
        try:
            drawn: dict[str, object] = await other.text_to_image("sea", response_format="b64_json", seed=5)
            return drawn
        finally:
            await other.close()
            await client.close()

    async def follow() -> float:
        client = AsyncRESTfulClient(live.url)
        handle = await client.get_model("xinf-slow")
        try:
            drawing = asyncio.create_task(handle.text_to_image("async", request_id="xinf-2", num_inference_steps=4))
            await asyncio.to_thread(journal.wait_for, "async", 2)
            seen = await client.get_progress("xinf-2")
            await drawing
            return float(seen["progress"])
        finally:
            await handle.close()
            await client.close()

    wanted = model.text_to_image("sea", response_format="b64_json", seed=5)
    assert asyncio.run(draw())["data"] == wanted["data"]
    assert 0 < asyncio.run(follow()) < 1
