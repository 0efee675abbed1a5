"""An image model's handle: what goes over the wire, and what comes back as pictures, streams and jobs."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cluster import AsyncClient, Client, errors
from cluster.client.images import AsyncImageModel, ImageCalls, ImageModel
from cluster.client.jobs import lasting
from cluster.client.results import Picture
from tests.cluster.client.image_server import ImageServer, Stream, answer_of, completed, partial, picture

RED, BLUE = picture("red"), picture("blue")
GENERATIONS, EDITS = "POST /v1/images/generations", "POST /v1/images/edits"
VARIATIONS, INPAINTING = "POST /v1/images/variations", "POST /v1/images/inpainting"
JOB = {"id": "job-1", "object": "image.job", "status": "queued", "progress": 0.0}


@pytest.fixture
def model(server: ImageServer) -> Iterator[ImageModel]:
    with Client(server.url) as client:
        yield ImageModel(client, "m")


async def with_async(server: ImageServer, use: Callable[[AsyncImageModel], Any]) -> Any:
    async with AsyncClient(server.url) as client:
        return await use(AsyncImageModel(client, "m"))


#: A call, the route it asks, the fields and files that arrive there.
CALLS: dict[str, tuple[Callable[[Any], Any], str, dict[str, Any], list[tuple[str, bytes]]]] = {
    "text": (
        lambda m: m.text_to_image("a tree", size="8x6", seed=7, loras=[{"name": "ink"}]),
        GENERATIONS,
        {"model": "m", "prompt": "a tree", "n": 1, "size": "8x6", "seed": 7, "loras": [{"name": "ink"}]},
        [],
    ),
    "text in Xinference's order": (
        lambda m: m.text_to_image("a tree", 2, "8*6", "url"),
        GENERATIONS,
        {"model": "m", "prompt": "a tree", "n": 2, "size": "8*6", "response_format": "url"},
        [],
    ),
    "text with a control image": (
        lambda m: m.text_to_image("a tree", control_image=RED),
        GENERATIONS,
        {"model": "m", "prompt": "a tree", "n": "1"},
        [("control_image", RED)],
    ),
    "image": (
        lambda m: m.image_to_image(RED, "a tree", "leaves", strength=0.5),
        VARIATIONS,
        {"model": "m", "prompt": "a tree", "negative_prompt": "leaves", "n": "1", "strength": "0.5"},
        [("image", RED)],
    ),
    "edit": (
        lambda m: m.image_edit([RED, BLUE], "a tree", mask=RED, seed=[1, 2], n=2),
        EDITS,
        {"model": "m", "prompt": "a tree", "n": "2", "kwargs": '{"seed":[1,2]}'},
        [("image[]", RED), ("image[]", BLUE), ("mask", RED)],
    ),
    "inpainting": (
        lambda m: m.inpainting(RED, BLUE, "a tree", size="8x6"),
        INPAINTING,
        {"model": "m", "prompt": "a tree", "n": "1", "size": "8x6"},
        [("image", RED), ("mask_image", BLUE)],
    ),
    "variation": (lambda m: m.variation(RED, n=2), VARIATIONS, {"model": "m", "n": "2"}, [("image", RED)]),
}


@pytest.mark.parametrize(("make", "route", "fields", "files"), CALLS.values(), ids=CALLS)
def test_both_clients_ask_the_same_and_get_the_same_pictures(
    server: ImageServer, model: ImageModel, make: Any, route: str, fields: dict[str, Any], files: Any
) -> None:
    server.on(route, answer_of(RED, BLUE))
    pictures = make(model)
    async_pictures = asyncio.run(with_async(server, make))
    assert [found.data for found in pictures] == [found.data for found in async_pictures] == [RED, BLUE]
    assert [found.seed for found in pictures] == [7, 8]
    for seen in server.of(route):
        pairs = list(seen.body.items()) if isinstance(seen.body, dict) else seen.body
        assert dict(pair for pair in pairs if not isinstance(pair[1], bytes)) == fields
        assert [pair for pair in pairs if isinstance(pair[1], bytes)] == files
    assert len(server.of(route)) == 2


def test_every_call_is_in_the_table() -> None:
    described = {name for name in dir(ImageCalls) if isinstance(getattr(ImageCalls, name), lasting)}
    assert described == {name for make, *_ in CALLS.values() for name in described if name in make.__code__.co_names}
    assert list(inspect.signature(ImageModel.inpainting.describe).parameters)[1:4] == ["image", "mask_image", "prompt"]


# What comes back


def test_a_picture_knows_how_it_was_made(server: ImageServer, model: ImageModel, tmp_path: Path) -> None:
    server.on(GENERATIONS, answer_of(RED, BLUE))
    pictures = model.text_to_image("a tree", n=2)
    assert (len(pictures), pictures[1].seed, pictures[1].receipt) == (2, 8, {"seed": 8})
    assert pictures[0].pil().getpixel((0, 0)) == (255, 0, 0)
    pictures[-1].save(tmp_path / "blue.png")
    assert Image.open(tmp_path / "blue.png").getpixel((0, 0)) == (0, 0, 255)


def test_pictures_read_as_the_dict_of_xinferences_client(server: ImageServer, model: ImageModel) -> None:
    server.on(GENERATIONS, answer_of(RED))
    pictures = model.text_to_image("a tree")
    assert pictures["created"] == 1
    assert pictures["data"][0]["b64_json"] == pictures.raw["data"][0]["b64_json"]


def test_no_bytes_are_in_what_is_printed(server: ImageServer, model: ImageModel) -> None:
    server.on(GENERATIONS, answer_of(RED))
    assert repr(model.text_to_image("a tree")) == "Pictures([Picture(seed=7, is_final=True)])"


def test_a_picture_at_an_address_says_so_when_its_bytes_are_asked_for() -> None:
    found = Picture({"url": "http://h/v1/files/x.png", "b64_json": None})
    assert found.url == "http://h/v1/files/x.png"
    with pytest.raises(errors.BadRequest, match=r"is at http://h/v1/files/x.png; ask with response_format='b64_json'"):
        _ = found.data


# What a picture is given as


def given_as(tmp_path: Path) -> list[Any]:
    (tmp_path / "red.png").write_bytes(RED)
    return [
        str(tmp_path / "red.png"),
        tmp_path / "red.png",
        BytesIO(RED),
        bytearray(RED),
        Picture(answer_of(RED)["data"][0]),
    ]


def test_a_path_bytes_an_open_file_and_a_picture_of_ours_are_the_same(
    server: ImageServer, model: ImageModel, tmp_path: Path
) -> None:
    server.on(VARIATIONS, answer_of(BLUE))
    for image in given_as(tmp_path):
        model.variation(image)
    assert [dict(seen.body)["image"] for seen in server.of(VARIATIONS)] == [RED] * 5


def test_a_pil_image_arrives_as_it_is(server: ImageServer, model: ImageModel) -> None:
    server.on(VARIATIONS, answer_of(BLUE))
    model.variation(Image.new("RGBA", (2, 2), (1, 2, 3, 4)))
    arrived = Image.open(BytesIO(dict(server.of(VARIATIONS)[0].body)["image"]))
    assert (arrived.mode, arrived.getpixel((1, 1))) == ("RGBA", (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("nowhere.png", "nowhere.png cannot be read: No such file or directory."),
        (7, "A picture is given as a path, bytes, an open file or a PIL image, not as int."),
        ([], "There is no picture to start from: the list is empty."),
    ],
)
def test_what_is_no_picture_is_refused_before_anything_is_sent(
    server: ImageServer, model: ImageModel, image: Any, said: str
) -> None:
    with pytest.raises(errors.BadRequest) as raised:
        model.image_edit(image, "a tree")
    assert (raised.value.message, raised.value.param, server.seen) == (said, "image", [])


# Streams

STREAM = ["keep-alive", partial(RED, 0), "keep-alive", partial(BLUE, 1), completed(BLUE)]


def test_a_stream_is_previews_and_then_the_picture(server: ImageServer, model: ImageModel) -> None:
    server.on(GENERATIONS, Stream(*STREAM))
    found = list(model.text_to_image("a tree", partial_images=2))
    assert [(one.data, one.is_final) for one in found] == [(RED, False), (BLUE, False), (BLUE, True)]
    assert (found[2].seed, found[2].receipt) == (7, {"seed": 7})
    body = server.of(GENERATIONS)[0].body
    assert (body["stream"], body["partial_images"]) == (True, 2)


def test_the_async_stream_is_the_same(server: ImageServer) -> None:
    server.on(EDITS, Stream(partial(RED, kind="image_edit"), completed(BLUE, kind="image_edit")))

    async def read(model: AsyncImageModel) -> list[tuple[bytes, bool]]:
        return [(one.data, one.is_final) async for one in model.image_edit(RED, "a tree", stream=True)]

    assert asyncio.run(with_async(server, read)) == [(RED, False), (BLUE, True)]
    assert ("stream", "true") in server.of(EDITS)[0].body


def test_an_error_before_a_stream_is_raised_as_its_class(server: ImageServer, model: ImageModel) -> None:
    server.on(GENERATIONS, errors.Overloaded("The queue of m is full.", retry_after_s=2.0))
    with pytest.raises(errors.Overloaded, match="The queue of m is full") as raised:
        next(model.text_to_image("a tree", stream=True))
    assert raised.value.retry_after_s == 2.0

    async def read(model: AsyncImageModel) -> None:
        async for _ in model.text_to_image("a tree", stream=True):
            pass

    with pytest.raises(errors.Overloaded):
        asyncio.run(with_async(server, read))


def test_an_error_within_a_stream_is_raised_after_what_came_before(server: ImageServer, model: ImageModel) -> None:
    server.on(GENERATIONS, Stream(partial(RED), errors.OutOfMemory("The picture needs 9 GiB.")))
    stream = model.text_to_image("a tree", partial_images=1)
    assert next(stream).data == RED
    with pytest.raises(errors.OutOfMemory, match=r"The picture needs 9 GiB\."):
        next(stream)


def test_whoever_stops_reading_leaves(server: ImageServer, model: ImageModel) -> None:
    endless = Stream(partial(RED), lambda: False)
    server.on(GENERATIONS, endless)
    stream = model.text_to_image("a tree", partial_images=1)
    next(stream)
    assert not endless.left.is_set()
    stream.close()
    assert endless.left.wait(5), "the server still streams to nobody"


# Jobs


def test_a_job_is_followed_to_its_pictures(server: ImageServer, model: ImageModel) -> None:
    done = {**JOB, "status": "completed", "progress": 1.0, "result": answer_of(RED)}
    server.on(GENERATIONS, JOB)
    server.on("GET /v1/images/jobs/job-1", JOB, {**JOB, "status": "in_progress", "progress": 0.5}, done)
    job = model.text_to_image("a tree", background=True)
    assert (job.id, job.status(), job.progress()) == ("job-1", "queued", 0.5)
    assert [one.data for one in job.result(timeout=5)] == [RED]
    assert server.of(GENERATIONS)[0].body["background"] is True


def test_the_job_of_the_async_client_is_awaited(server: ImageServer) -> None:
    server.on(VARIATIONS, JOB)
    server.on("GET /v1/images/jobs/job-1", JOB, {**JOB, "status": "completed", "result": answer_of(RED)})

    async def use(model: AsyncImageModel) -> Any:
        job = await model.variation(RED, background=True)
        return await job.result()

    assert [one.data for one in asyncio.run(with_async(server, use))] == [RED]


def test_the_result_of_a_job_that_failed_is_its_error(server: ImageServer, model: ImageModel) -> None:
    server.on(GENERATIONS, JOB)
    server.on("GET /v1/images/jobs/job-1", {**JOB, "status": "failed"})
    server.on("GET /v1/images/jobs/job-1/result", errors.OutOfMemory("The picture needs 9 GiB."))
    with pytest.raises(errors.OutOfMemory, match=r"The picture needs 9 GiB\."):
        model.text_to_image("a tree", background=True).result()


def test_waiting_for_a_job_ends_but_not_the_job(server: ImageServer, model: ImageModel) -> None:
    server.on(GENERATIONS, JOB)
    server.on("GET /v1/images/jobs/job-1", {**JOB, "status": "in_progress", "progress": 0.25})
    with pytest.raises(errors.DeadlineExceeded, match=r"The job job-1 is at 25% after 0.1 s and goes on"):
        model.text_to_image("a tree", background=True).result(timeout=0.1)


def test_a_job_of_an_earlier_run_is_found_and_cancelled(server: ImageServer) -> None:
    server.on("GET /v1/images/jobs", {"object": "list", "data": [JOB]})
    server.on("GET /v1/images/jobs/job-1", JOB)
    server.on("DELETE /v1/images/jobs/job-1", {**JOB, "status": "cancelled"})
    with Client(server.url) as client:
        (known,) = client.list_image_jobs()
        client.get_image_job(known["id"]).cancel()
    assert len(server.of("DELETE /v1/images/jobs/job-1")) == 1


def test_how_far_a_request_is(server: ImageServer) -> None:
    server.on("GET /v1/requests/r1/progress", {"progress": 0.4, "step": 2, "steps": 5})
    with Client(server.url) as client:
        assert client.get_progress("r1")["progress"] == 0.4


# Which handle


@pytest.mark.parametrize("ability", ["text2image", "image2image", "inpainting"])
def test_whatever_draws_is_an_image_model(server: ImageServer, ability: str) -> None:
    server.on("GET /v1/models/m", {"model_type": "painting", "model_ability": [ability]})
    with Client(server.url) as client:
        assert type(client.get_model("m")) is ImageModel
