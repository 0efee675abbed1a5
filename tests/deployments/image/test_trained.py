"""A trained diffusion model, from its package to a served picture. It draws a class in one step and reads no words."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
import torch
from diffusers import ConsistencyModelPipeline
from PIL import Image

from cluster import errors
from tests import terrain
from tests.deployments.image.painter import Painter, Watched, away, one_thread
from tests.live import LiveCluster

Bare = Callable[[int, int], Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return terrain.saved(tmp_path_factory.mktemp("terrain") / "terrain")


@pytest.fixture(scope="module")
def painter(folder: Path) -> Painter:
    return Painter.of(folder)


@pytest.fixture(scope="module")
def bare(folder: Path) -> Bare:
    """The picture of a class and a seed, as the library's own pipeline draws it."""
    pipe = ConsistencyModelPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)

    @cache
    def draw(label: int, seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        with one_thread():
            return pipe(class_labels=label, num_inference_steps=1, generator=generator, output_type="np").images[0]

    return draw


def drawing(painter: Painter, **asked: Any) -> Any:
    given = {"width": None, "height": None, "num_inference_steps": 1, **asked}
    return painter.drawing(prompt="", **given)


def test_it_is_what_the_package_runs(folder: Path) -> None:
    """Compares one call of each on the same noise. The package does itself what the scheduler does at the only step."""
    labels = torch.tensor([0, 9, 50, 99])
    noise = np.random.default_rng(0).standard_normal((4, 1, terrain.SIDE, terrain.SIDE), dtype=np.float32)
    noisy = noise * np.float32(terrain.SIGMA_MAX)
    session = onnxruntime.InferenceSession(terrain.onnx_file(), providers=["CPUExecutionProvider"])
    sigmas = np.full(4, terrain.SIGMA_MAX, np.float32)
    difficulties = (labels.numpy() / (terrain.CLASSES - 1)).astype(np.float32)
    (theirs,) = session.run(["denoised"], {"noisy": noisy, "sigma": sigmas, "difficulty": difficulties})

    pipe = ConsistencyModelPipeline.from_pretrained(folder)
    pipe.scheduler.set_timesteps(1)
    (at,) = pipe.scheduler.timesteps
    with torch.no_grad():
        scaled = pipe.scheduler.scale_model_input(torch.from_numpy(noisy), at)
        guessed = pipe.unet(scaled, at, class_labels=labels).sample
        ours = pipe.scheduler.step(guessed, at, torch.from_numpy(noisy), generator=torch.Generator()).prev_sample
    assert np.abs(ours.numpy() - theirs).max() < 1e-4
    assert theirs.std() > 0.05


@pytest.mark.parametrize(("label", "seed"), [(0, 1), (50, 2), (99, 3)])
def test_a_picture_is_that_of_the_bare_pipeline(painter: Painter, bare: Bare, label: int, seed: int) -> None:
    asked = drawing(painter, class_label=label, seed=seed)
    expected = bare(label, seed)
    assert away(painter.paint(asked), expected) < 1e-5
    drawn = painter.runner.draw(asked, Watched())
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(drawn.data))), (expected[..., 0] * 255).round())
    assert (drawn.width, drawn.height) == (terrain.SIDE, terrain.SIDE)
    assert drawn.receipt["class_label"] == label


def test_many_seeds_and_classes_at_once_are_each_its_own(painter: Painter, bare: Bare) -> None:
    # Three that others have drawn; and seeds and classes that occur twice.
    asked = [(0, 1), (50, 2), (99, 3), (99, 1), (0, 2)]
    before = painter.runner.queue.denoiser.passes
    found = painter.at_random_times([drawing(painter, class_label=label, seed=seed) for label, seed in asked], 1, 0.01)
    assert painter.runner.queue.denoiser.passes - before < len(asked)
    assert max(away(pixels, bare(*one)) for pixels, one in zip(found, asked, strict=True)) < 1e-5


def test_a_higher_class_is_rougher(painter: Painter) -> None:
    heights = {
        label: np.mean([painter.paint(drawing(painter, class_label=label, seed=seed)).std() for seed in range(4)])
        for label in (9, 50, 89)
    }
    assert heights[9] < heights[50] < heights[89]


def test_without_a_class_it_is_one_by_the_seed(painter: Painter, bare: Bare) -> None:
    drawn = painter.runner.draw(drawing(painter, seed=312), Watched())
    assert drawn.receipt["class_label"] == 12
    assert away(painter.paint(drawing(painter, seed=312)), bare(12, 312)) < 1e-5


@pytest.mark.parametrize(
    ("asked", "message", "param"),
    [
        ({"class_label": 100}, "There is no class 100: terrain knows those from 0 to 99.", "class_label"),
        ({"width": 64, "height": 64}, "terrain draws 128x128 only: ask for that.", "size"),
        ({"guidance_scale": 3.0}, "terrain takes no guidance_scale.", "guidance_scale"),
        (
            {"sampler_name": "DPM++ 2M"},
            "There is no sampler 'DPM++ 2M' for this model; there is only its own.",
            "sampler_name",
        ),
    ],
)
def test_what_it_cannot_do_is_refused(painter: Painter, asked: dict[str, Any], message: str, param: str) -> None:
    with pytest.raises(errors.BadRequest) as raised:
        drawing(painter, **asked)
    assert raised.value.message == message
    assert raised.value.param == param


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_serves_it(live: LiveCluster, folder: Path, bare: Bare) -> None:
    words = ("--model-name", "terrain", "--model-uid", "terrain", "--model-type", "image", "--model-path", str(folder))
    launched = live.command("launch", *words, timeout=200)
    assert launched.returncode == 0, launched.stderr
    try:
        asked = {"model": "terrain", "prompt": "a landscape", "seed": 7, "class_label": 99, "num_inference_steps": 1}
        answer = httpx.post(f"{live.url}/v1/images/generations", json=asked, timeout=60)
        assert answer.status_code == 200, answer.text
        (one,) = answer.json()["data"]
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(one["b64_json"]))))
        assert np.array_equal(pixels, (bare(99, 7)[..., 0] * 255).round())
        assert one["receipt"]["class_label"] == 99
    finally:
        with live.client() as client:
            client.terminate_model("terrain")
