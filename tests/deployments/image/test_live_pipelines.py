"""All nine tiny pipelines, launched on a real cluster and asked for everything they can do."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.live import LiveCluster, until
from tests.pipelines import NINE

SIDE = 64
TASKS = {
    "sd15": {"text2image", "image2image", "inpainting"},
    "sdxl": {"text2image", "image2image", "inpainting"},
    "sd3": {"text2image", "image2image", "inpainting"},
    "flux": {"text2image", "image2image", "inpainting"},
    "flux_kontext": {"text2image", "image2image"},
    "qwen_image": {"text2image", "image2image", "inpainting"},
    "cogview4": {"text2image"},
    "hunyuandit": {"text2image"},
    "kolors": {"text2image", "image2image"},
}


@pytest.fixture(scope="module")
def launched(live: LiveCluster, folder_of: Callable[[str], Path]) -> Iterator[LiveCluster]:
    """Launches them all at the same time, so that both cores are busy while the processes start."""
    with live.client() as client:

        def launch(name: str) -> str:
            # Their default claims are for pictures of full size, and nine of those would not fit.
            path = str(folder_of(name))
            return client.launch_model(f"tiny-{name}", "image", model_uid=name, model_path=path, memory="800MiB")

        with ThreadPoolExecutor(len(NINE)) as threads:
            assert list(threads.map(launch, NINE)) == list(NINE)
        yield live
        for name in NINE:
            client.terminate_model(name)
        until(lambda: not set(NINE) & set(client.list_models()), within=30)


def noise(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "PNG")
    return target.getvalue()


def white_square() -> bytes:
    mask = Image.new("L", (SIDE, SIDE), 0)
    mask.paste(255, (16, 16, 48, 48))
    target = io.BytesIO()
    mask.save(target, "PNG")
    return target.getvalue()


def pictures_in(answer: httpx.Response) -> list[Image.Image]:
    assert answer.status_code == 200, answer.text
    return [Image.open(io.BytesIO(base64.b64decode(row["b64_json"]))) for row in answer.json()["data"]]


def asked(live: LiveCluster, name: str, task: str, **fields: Any) -> list[Image.Image]:
    fields = {"model": name, "prompt": "a cat", "num_inference_steps": 3, "response_format": "b64_json", **fields}
    if task == "text2image":
        return pictures_in(live.post("/v1/images/generations", {**fields, "size": f"{SIDE}x{SIDE}"}))
    files = [("image", ("noise.png", noise(0), "image/png"))]
    path = "/v1/images/edits"
    if task == "inpainting":
        files.append(("mask_image", ("mask.png", white_square(), "image/png")))
        path = "/v1/images/inpainting"
    given = {key: str(value) for key, value in fields.items()}
    return pictures_in(httpx.post(live.url + path, data=given, files=files, timeout=60))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", NINE)
def test_a_pipeline_answers_every_task_that_it_supports(name: str, launched: LiveCluster) -> None:
    tasks = set(launched.get(f"/v1/models/{name}").json()["tasks"])
    assert tasks == TASKS[name]
    for task in sorted(tasks):
        (picture,) = asked(launched, name, task, seed=7)
        assert picture.size == (SIDE, SIDE)
        (again,) = asked(launched, name, task, seed=7)
        (other,) = asked(launched, name, task, seed=8)
        assert np.array_equal(picture, again), f"{name} {task}: a seed means one picture"
        assert not np.array_equal(picture, other), f"{name} {task}: another seed means another picture"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", ["cogview4", "hunyuandit"])
def test_a_task_that_a_pipeline_cannot_do_is_refused(name: str, launched: LiveCluster) -> None:
    given = {"model": name, "prompt": "a cat"}
    files = [("image", ("noise.png", noise(0), "image/png"))]
    answer = httpx.post(launched.url + "/v1/images/edits", data=given, files=files, timeout=60)
    assert answer.status_code == 400
    assert name in answer.json()["detail"]


@pytest.mark.ray
@pytest.mark.slow
def test_what_is_kept_in_an_inpainting_is_kept(launched: LiveCluster) -> None:
    (picture,) = asked(launched, "sd15", "inpainting", seed=1, strength=0.9)
    before, after = np.asarray(Image.open(io.BytesIO(noise(0))), dtype=float), np.asarray(picture, dtype=float)
    change = np.abs(before - after).mean(axis=2)
    assert change[20:44, 20:44].mean() > 1
