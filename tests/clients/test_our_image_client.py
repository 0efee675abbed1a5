"""Our own client and command with an image model on a real server."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import uuid
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from cluster import AsyncClient, Client, errors
from cluster.client import ImageModel
from tests.families import painted_colour
from tests.live import ROOT, LiveCluster, until
from tests.painted import Journal, painting

TREE = painted_colour("a tree")


@pytest.fixture
def client(live: LiveCluster) -> Iterator[Client]:
    with live.client() as client:
        yield client


@pytest.fixture(scope="module")
def painter(live: LiveCluster, journal: Journal) -> Iterator[str]:
    """Takes 4 steps of 0.05 s for a picture."""
    with painting(live, "painter", step_seconds=0.05, journal=str(journal.path)) as uid:
        yield uid


@pytest.fixture
def model(client: Client, painter: str) -> ImageModel:
    model = client.get_model(painter)
    assert isinstance(model, ImageModel)
    return model


def steps_while_another_is_drawn(journal: Journal, model: ImageModel, prompt: str) -> int:
    """How many steps the first picture took meanwhile. The painter draws several at once, so a picture that was not
    stopped would take about as many steps as the other one: 6."""
    before = journal.steps(prompt)
    model.text_to_image("another", num_inference_steps=6)
    return journal.steps(prompt) - before


def solid(colour: str | tuple[int, ...], mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (32, 32), colour)


def test_a_text_becomes_pictures(model: ImageModel) -> None:
    pictures = model.text_to_image("a tree", n=2, size="48x32", seed=20)
    assert [(one.seed, one.pil().size, one.pil().getpixel((0, 0))) for one in pictures] == [
        (20, (48, 32), TREE),
        (21, (48, 32), TREE),
    ]
    assert pictures[1].receipt["seed"] == 21
    assert pictures["data"][0]["revised_prompt"] is None


def test_options_reach_the_model_through_a_form_as_through_json(model: ImageModel) -> None:
    fields = {"num_inference_steps": 3, "loras": [{"name": "blue", "scale": 0.5}], "seed": [5, 9], "n": 2}
    drawn = model.text_to_image("a tree", **fields)
    redrawn = model.image_to_image(drawn[0], "a tree", "leaves", strength=0.25, **fields)
    assert [one.seed for one in drawn] == [one.seed for one in redrawn] == [5, 9]
    for one in (*drawn, *redrawn):
        assert one.receipt["num_inference_steps"] == 3
        assert one.receipt["loras"] == [{"name": "blue", "scale": 0.5}]
    assert (redrawn[0].receipt["strength"], redrawn[0].receipt["negative_prompt"]) == (0.25, "leaves")


def test_white_is_repainted_and_so_is_what_is_transparent(model: ImageModel) -> None:
    half = solid("black")
    half.paste("white", (16, 0, 32, 32))
    hole = solid((0, 0, 0, 255), "RGBA")
    hole.paste((0, 0, 0, 0), (16, 0, 32, 32))
    given = solid("yellow")
    for picture in (
        model.inpainting(given, half, "a tree", seed=0)[0],
        model.image_edit(given, "a tree", mask=half, seed=0)[0],
        model.image_edit([given], "a tree", mask=hole, seed=0)[0],
    ):
        assert picture.pil().getpixel((8, 31)) == (255, 255, 0)
        assert picture.pil().getpixel((24, 31)) == TREE


def test_a_variation_needs_no_word(model: ImageModel) -> None:
    assert model.variation(solid("white"), n=2, size="16x16")[1].pil().size == (16, 16)


def test_an_address_can_be_opened_by_anybody(client: Client, model: ImageModel) -> None:
    picture = model.text_to_image("a tree", response_format="url", output_format="webp")[0]
    assert picture.url.startswith(f"{client.base_url}/v1/files/")
    fetched = Image.open(BytesIO(client.driver.http.get(picture.url).content))
    assert (fetched.format, fetched.size) == ("WEBP", (64, 64))


def test_a_stream_ends_with_the_picture_that_comes_without_one(model: ImageModel) -> None:
    *previews, last = model.text_to_image("a tree", seed=3, partial_images=2, num_inference_steps=6)
    assert [one.is_final for one in previews] == [False, False]
    assert previews[0].pil().size == last.pil().size == (64, 64)
    whole = model.text_to_image("a tree", seed=3, num_inference_steps=6)[0]
    assert (last.is_final, last.pil().tobytes()) == (True, whole.pil().tobytes())


def test_the_async_client_streams_and_waits_for_jobs(live: LiveCluster, painter: str) -> None:
    async def use() -> tuple[list[bool], int]:
        async with AsyncClient(live.url) as client:
            model = await client.get_model(painter)
            stream = model.image_edit(solid("white"), "a tree", partial_images=1)
            job = await model.text_to_image("a tree", n=2, background=True)
            return [one.is_final async for one in stream], len(await job.result(timeout=30))

    assert asyncio.run(use()) == ([False, True], 2)


def test_what_cannot_be_drawn_is_the_servers_sentence(model: ImageModel) -> None:
    with pytest.raises(errors.InvalidBody, match="did you mean 'num_inference_steps'") as raised:
        model.text_to_image("a tree", num_inferense_steps=3)
    assert raised.value.param == "num_inferense_steps"
    with pytest.raises(errors.InvalidBody, match="is not a (readable )?picture"):
        model.variation(b"hello")
    with pytest.raises(errors.InferenceFailed, match="told to fail"):
        list(model.text_to_image("told to fail", stream=True))


def test_whoever_stops_reading_stops_the_painter(model: ImageModel, journal: Journal) -> None:
    prompt = uuid.uuid4().hex
    stream = model.text_to_image(prompt, partial_images=3, num_inference_steps=100)
    next(stream)
    stream.close()
    assert steps_while_another_is_drawn(journal, model, prompt) <= 2


def test_a_job_is_watched_and_cancelled(client: Client, model: ImageModel, journal: Journal) -> None:
    prompt = uuid.uuid4().hex
    job = model.text_to_image(prompt, background=True, num_inference_steps=400)
    assert job.id in [known["id"] for known in client.list_image_jobs()]
    until(lambda: job.progress() > 0, within=20)
    assert job.status() == "in_progress"
    with pytest.raises(errors.DeadlineExceeded, match=f"The job {job.id} is at "):
        job.result(timeout=0.1)
    client.get_image_job(job.id).cancel()
    assert steps_while_another_is_drawn(journal, model, prompt) <= 1
    assert job.status() == "cancelled"
    with pytest.raises(errors.RequestCancelled, match=job.id):
        job.result()


def test_a_job_fails_with_the_error_of_its_model(model: ImageModel) -> None:
    with pytest.raises(errors.InferenceFailed, match="told to fail"):
        model.text_to_image("told to fail", background=True).result(timeout=30)


def test_a_request_is_watched_and_aborted_by_its_id(client: Client, model: ImageModel, painter: str) -> None:
    stream = model.text_to_image("a tree", num_inference_steps=100, partial_images=3, request_id="ours-1")
    next(stream)
    said = client.get_progress("ours-1")
    assert 0 < said["progress"] < 1 and said["stage"] == "denoising" and said["steps"] == 100
    assert client.abort_request(painter, "ours-1") == {"msg": "DONE"}
    with pytest.raises(errors.RequestCancelled):
        list(stream)


# The command


def test_the_command_draws_and_edits(live: LiveCluster, painter: str, tmp_path: Path) -> None:
    done = live.command(
        "generate", "a tree", "-u", painter, "-o", str(tmp_path / "tree.webp"), "-s", "32x32", "-n", "2"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(tmp_path / "tree-1.webp"), str(tmp_path / "tree-2.webp")]
    words = [
        "-i",
        str(tmp_path / "tree-1.webp"),
        "--strength",
        "1",
        "--lora",
        "blue:0.5",
        "-o",
        str(tmp_path),
        "--json",
    ]
    done = live.command("generate", "a bush", "-u", painter, "--seed", "40", *words)
    assert done.returncode == 0, done.stderr
    (made,) = json.loads(done.stdout)["images"]
    assert made["file"] == str(tmp_path / "painter-40.png")
    assert made["receipt"]["loras"] == [{"name": "blue", "scale": 0.5}]
    picture = Image.open(made["file"])
    assert (picture.size, picture.getpixel((0, 0))) == ((32, 32), painted_colour("a bush"))


def test_the_command_tells_how_far_it_is_and_ctrl_c_stops_the_painter(
    live: LiveCluster, painter: str, model: ImageModel, journal: Journal, tmp_path: Path
) -> None:
    prompt = uuid.uuid4().hex
    words = live.command_line("generate", prompt, "-u", painter, "--steps", "400", "-o", str(tmp_path / "x.png"))
    pipe = subprocess.PIPE
    with subprocess.Popen(words, env=live.environment, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
        until(lambda: journal.steps(prompt) > 60, within=30)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert steps_while_another_is_drawn(journal, model, prompt) <= 1
    assert process.returncode == 130
    assert re.search(r"^painter: denoising \(1\d%, step \d+ of 400", said, re.MULTILINE), said
    assert said.endswith("painter was told to stop.\n")
    assert list(tmp_path.iterdir()) == []
