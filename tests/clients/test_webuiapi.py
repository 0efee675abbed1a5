"""The webuiapi package, a client of A1111's web interface."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import webuiapi
from PIL import Image

from tests.live import LiveCluster
from tests.painted import painting


@pytest.fixture(scope="module")
def api(live: LiveCluster) -> Iterator[webuiapi.WebUIApi]:
    with painting(live, "webui-painter"):
        yield webuiapi.WebUIApi(host="127.0.0.1", port=live.port)


def test_what_it_lists_is_there(api: webuiapi.WebUIApi) -> None:
    assert "webui-painter" in api.util_get_model_names()
    names = {row["name"] for row in api.get_samplers()}
    assert {"Euler a", "DPM++ 2M"} <= names
    assert {"karras", "sgm_uniform"} <= {row["name"] for row in api.get_schedulers()}
    empty = (api.get_sd_vae, api.get_hypernetworks, api.get_face_restorers, api.get_prompt_styles)
    assert [ask() for ask in empty] == [[]] * len(empty)
    assert api.get_scripts() == {"txt2img": [], "img2img": []} and api.get_embeddings()["loaded"] == {}


def test_it_draws_with_its_own_defaults(api: webuiapi.WebUIApi) -> None:
    drawn = api.txt2img(prompt="a lighthouse", width=64, height=64, steps=2, seed=5)
    assert drawn.image.size == (64, 64) and drawn.info["seed"] == 5


@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M SDE", "DDIM", "Automatic"])
@pytest.mark.parametrize("scheduler", ["Automatic", "karras", "SGM Uniform", "beta"])
def test_samplers_and_schedulers_go_together_freely(api: webuiapi.WebUIApi, sampler: str, scheduler: str) -> None:
    drawn = api.txt2img(prompt="a", width=64, height=64, steps=2, sampler_name=sampler, scheduler=scheduler)
    assert drawn.image.size == (64, 64)


def test_it_draws_from_a_picture(api: webuiapi.WebUIApi) -> None:
    start = Image.new("RGB", (64, 64), "red")
    assert api.img2img(images=[start], prompt="a", width=64, height=64, steps=2).image.size == (64, 64)
