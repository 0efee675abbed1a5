"""The image calls of real SDKs with a real pipeline that has random weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import litellm
import numpy as np
import openai
import pytest
from xinference_client import RESTfulClient

from tests.live import LiveCluster, until
from tests.painted import filled, half, opened
from tests.pipelines import saved

SIZE = "64x64"


@pytest.fixture(scope="module")
def tiny(live: LiveCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = saved("sd15", tmp_path_factory.mktemp("pipelines") / "sd15")
    with live.client() as client:
        uid = client.launch_model("sd15", model_type="image", model_path=str(folder), model_uid="tiny-sd")
        yield uid
        client.terminate_model(uid)
        until(lambda: uid not in client.list_models(), within=10)


@pytest.fixture
def client(live: LiveCluster, tiny: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def pixels(text: str) -> np.ndarray:
    return np.asarray(opened(text).convert("RGB"), dtype=np.int16)


def test_openai_draws_edits_and_streams(client: openai.OpenAI, tiny: str) -> None:
    extra = {"seed": 1, "num_inference_steps": 4}
    asked = {"model": tiny, "prompt": "a lighthouse", "size": SIZE, "extra_body": extra}
    once, again = (client.images.generate(**asked).data[0] for _ in range(2))
    assert pixels(once.b64_json).shape == (64, 64, 3) and once.b64_json == again.b64_json
    assert once.receipt["seed"] == 1 and once.receipt["num_inference_steps"] == 4
    events = list(client.images.generate(**asked, stream=True, partial_images=2))
    assert [event.type.rpartition(".")[2] for event in events][-1] == "completed"
    assert np.abs(pixels(events[-1].b64_json) - pixels(once.b64_json)).max() <= 1
    mask = half((0, 0, 0, 0), (0, 0, 0, 255), (64, 64), mode="RGBA")
    edit = client.images.edit(
        model=tiny, image=filled("red", (64, 64)), mask=mask, prompt="sea", size=SIZE, extra_body={"steps": 4}
    )
    assert pixels(edit.data[0].b64_json).shape == (64, 64, 3)
    varied = client.images.create_variation(model=tiny, image=filled("red", (64, 64)), n=2)
    assert len(varied.data) == 2


def test_litellm_draws_the_same(live: LiveCluster, client: openai.OpenAI, tiny: str) -> None:
    base = {"api_base": f"{live.url}/v1", "api_key": "none", "size": SIZE, "seed": 1, "kwargs": '{"steps": 2}'}
    lite = litellm.image_generation(model=f"xinference/{tiny}", prompt="sea", **base).data[0]
    own = client.images.generate(model=tiny, prompt="sea", size=SIZE, extra_body={"seed": 1, "steps": 2}).data[0]
    assert lite.b64_json == own.b64_json


def test_xinference_finds_an_image_model_and_draws(live: LiveCluster, tiny: str) -> None:
    xinference = RESTfulClient(live.url)
    model = xinference.get_model(tiny)
    options = {"response_format": "b64_json", "num_inference_steps": 2, "seed": 3}
    drawn = model.text_to_image("sea", size="64*64", **options)["data"][0]
    assert pixels(drawn["b64_json"]).shape == (64, 64, 3) and drawn["seed"] == 3
    red, right = filled("red", (64, 64)), half("black", "white", (64, 64))
    for answer in (
        model.image_to_image(red, "sea", size="64*64", **options),
        model.image_edit([red], "sea", size="64*64", **options),
        model.inpainting(red, right, "sea", size="64*64", **options),
    ):
        assert pixels(answer["data"][0]["b64_json"]).shape == (64, 64, 3)
    xinference.close()


def test_the_web_interface_is_served(live: LiveCluster, tiny: str) -> None:
    asked = {"prompt": "sea", "steps": 4, "width": 64, "height": 64, "sampler_name": "Euler a", "cfg_scale": 5}
    answer = httpx.post(f"{live.url}/sdapi/v1/txt2img", json={**asked, "model": tiny}, timeout=60)
    assert answer.status_code == 200, answer.text
    info = json.loads(answer.json()["info"])
    assert (info["sampler_name"], info["cfg_scale"], info["steps"]) == ("Euler a", 5.0, 4)
    assert opened(answer.json()["images"][0]).info["parameters"] == info["infotexts"][0]


def test_a_sampler_that_is_not_there_is_told(client: openai.OpenAI, tiny: str) -> None:
    with pytest.raises(openai.BadRequestError, match="There is no sampler 'Eular'") as raised:
        client.images.generate(model=tiny, prompt="a", size=SIZE, extra_body={"sampler_name": "Eular"})
    assert raised.value.param == "sampler_name"
