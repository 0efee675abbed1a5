"""The routes of A1111's web interface, called as its clients do."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from deployments.image.http.masks import around
from deployments.image.http.sdapi import loras_in, parameters_in
from tests.described import held_to_its_description
from tests.live import LiveCluster, until
from tests.painted import (
    Journal,
    as_uri,
    blended,
    corners,
    filled,
    half,
    is_near,
    opened,
    painted_colour,
    painting,
)

STEP_S = 0.4


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def server(live: LiveCluster, journal: Journal) -> Iterator[httpx.Client]:
    with (
        painting(live, "sd-one"),
        painting(live, "sd-two", step_seconds=STEP_S, journal=str(journal.path)),
        httpx.Client(
            base_url=f"{live.url}/sdapi/v1", timeout=30, event_hooks=held_to_its_description(live.url)
        ) as http,
    ):
        yield http


def drawn(server: httpx.Client, path: str = "/txt2img", **fields: Any) -> tuple[list[Any], dict[str, Any], Any]:
    """The pictures, `info` parsed, and the parameters."""
    answer = server.post(path, json=fields)
    assert answer.status_code == 200, answer.text[:500]
    body = answer.json()
    assert body.keys() == {"images", "parameters", "info"} and isinstance(body["info"], str)
    return [opened(text) for text in body["images"]], json.loads(body["info"]), body["parameters"]


#: The fields that such a client always sends.
USUAL = {
    "prompt": "sea",
    "negative_prompt": "",
    "styles": [],
    "seed": -1,
    "subseed": -1,
    "subseed_strength": 0,
    "seed_resize_from_h": -1,
    "sampler_name": "Euler a",
    "scheduler": "Automatic",
    "batch_size": 1,
    "n_iter": 1,
    "steps": 2,
    "cfg_scale": 7,
    "width": 64,
    "height": 48,
    "restore_faces": False,
    "tiling": "false",
    "do_not_save_samples": False,
    "eta": None,
    "enable_hr": False,
    "hr_scale": 2,
    "override_settings": {},
    "override_settings_restore_afterwards": True,
    "script_name": None,
    "script_args": [],
    "send_images": True,
    "save_images": False,
    "alwayson_scripts": {
        "ControlNet": {"args": [{"enabled": "false", "module": "canny"}]},
        "ADetailer": {"args": [False]},
    },
}


def test_a_picture_of_a_text_comes_bare_and_with_a_text_of_json(server: httpx.Client) -> None:
    (image,), info, parameters = drawn(server, **USUAL)
    assert image.format == "PNG" and image.size == (64, 48) and corners(image)[0] == painted_colour("sea")
    assert (info["steps"], info["cfg_scale"], info["sampler_name"]) == (2, 7.0, "Euler a")
    assert info["seed"] >= 0 and info["all_seeds"] == [info["seed"]]
    assert f"Seed: {info['seed']}" in info["infotexts"][0] and info["infotexts"][0].startswith("sea\n")
    assert parameters["prompt"] == "sea" and parameters["width"] == 64


def test_batches_are_multiplied(server: httpx.Client) -> None:
    images, info, _ = drawn(server, **{**USUAL, "seed": 10, "batch_size": 2, "n_iter": 3})
    assert len(images) == 6 and info["all_seeds"] == list(range(10, 16))
    assert len(info["all_prompts"]) == len(info["infotexts"]) == 6


def test_pictures_may_be_left_out(server: httpx.Client) -> None:
    images, info, _ = drawn(server, **{**USUAL, "send_images": False})
    assert images == [] and info["all_seeds"]


def test_least_is_enough(server: httpx.Client) -> None:
    (image,), _, _ = drawn(server, prompt="sea")
    assert image.size == (64, 64)


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ({"sampler_name": "DPM++ 2M", "scheduler": "Karras"}, {"sampler_name": "DPM++ 2M Karras"}),
        ({"sampler_name": "DPM++ 2M Karras", "scheduler": "karras"}, {"sampler_name": "DPM++ 2M Karras"}),
        ({"sampler_name": None, "sampler_index": "Heun"}, {"sampler_name": "Heun"}),
        ({"cfg_scale": 1, "distilled_cfg_scale": 3.5}, {"guidance_scale": 3.5}),
        ({"cfg_scale": 7, "distilled_cfg_scale": 3.5}, {"guidance_scale": 7.0}),
        ({"override_settings": {"CLIP_stop_at_last_layers": 2}}, {"clip_skip": 1}),
        ({"prompt": "sea <lora:blue:0.8>"}, {"prompt": "sea", "loras": [{"name": "blue", "scale": 0.8}]}),
    ],
)
def test_its_fields_are_ours(server: httpx.Client, sent: dict[str, Any], read: dict[str, Any]) -> None:
    _, info, _ = drawn(server, **{**USUAL, **sent})
    assert {name: info["receipts"][0][name] for name in read} == read


def test_no_sampler_is_the_models_own(server: httpx.Client) -> None:
    for name in ("Automatic", "", None):
        _, info, _ = drawn(server, **{**USUAL, "sampler_name": name, "scheduler": None})
        assert "sampler_name" not in info["receipts"][0]


@pytest.mark.parametrize(
    ("sent", "status", "param"),
    [
        ({"steps": 10**9}, 422, "num_inference_steps"),
        ({"width": 0}, 422, "width"),
        ({"batch_size": 5, "n_iter": 5}, 422, "n"),
        ({"seed": -2}, 422, "seed"),
        ({"cfg_scale": "nan"}, 422, "guidance_scale"),
        ({"enable_hr": True}, 400, "enable_hr"),
        ({"restore_faces": True}, 400, "restore_faces"),
        ({"tiling": True}, 400, "tiling"),
        ({"subseed_strength": 0.5}, 400, "subseed_strength"),
        ({"styles": ["dark"]}, 400, "styles"),
        ({"script_name": "x/y/z plot"}, 400, "script_name"),
        ({"alwayson_scripts": {"controlnet": {"args": [{}]}}}, 400, "alwayson_scripts"),
        ({"alwayson_scripts": {"ADetailer": {"args": [True]}}}, 400, "alwayson_scripts"),
        ({"override_settings": {"sd_model_checkpoint": "nowhere"}}, 404, "model"),
        ({"prompt": "sea <lora:blue:0.8.1>"}, 422, "prompt"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_would_change_the_picture_and_is_not_done_is_refused(
    server: httpx.Client, sent: dict[str, Any], status: int, param: str
) -> None:
    answer = server.post("/txt2img", json={**USUAL, **sent})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == param and answer.json()["detail"]


# ----------------------------------------------------------------------------------------- from a picture


@pytest.mark.parametrize("given", [text_of(filled("red")), as_uri(filled("red"))])
def test_a_picture_to_start_from_is_bare_or_a_data_uri(server: httpx.Client, given: Any) -> None:
    asked = {**USUAL, "init_images": [given], "denoising_strength": 0.25}
    (image,), info, parameters = drawn(server, "/img2img", **asked)
    assert is_near(corners(image)[0], blended((255, 0, 0), painted_colour("sea"), 0.25))
    assert info["denoising_strength"] == 0.25 and "init_images" not in parameters


@pytest.mark.parametrize(("inverts", "painted"), [(0, "right"), (1, "left"), (False, "right"), (True, "left")])
def test_white_in_a_mask_is_drawn_anew_or_kept(server: httpx.Client, inverts: bool | int, painted: str) -> None:
    asked = {"init_images": [text_of(filled("red"))], "mask": text_of(half("black", "white"))}
    asked |= {"inpainting_mask_invert": inverts, "mask_blur": 0, "inpaint_full_res": 0, "inpainting_fill": 1}  # type: ignore[dict-item]
    (image,), _, _ = drawn(server, "/img2img", **USUAL, **asked)
    new, old = painted_colour("sea"), (255, 0, 0)
    assert corners(image) == ((new, old) if painted == "left" else (old, new))


def test_only_what_is_masked_is_drawn_and_put_back(server: httpx.Client) -> None:
    mask = half("black", "white", size=(256, 192))
    asked = {"init_images": [text_of(filled("red", (256, 192)))], "mask": text_of(mask), "mask_blur": 0}
    asked |= {"inpaint_full_res": True, "inpaint_full_res_padding": 8}
    (image,), info, _ = drawn(server, "/img2img", **{**USUAL, "width": 64, "height": 96}, **asked)
    assert image.size == (256, 192) and (info["width"], info["height"]) == (256, 192)
    # The drawing has the size that was asked for; put back, it fills the place that was cut out.
    assert (info["receipts"][0]["width"], info["receipts"][0]["height"]) == (64, 96)
    assert corners(image) == ((255, 0, 0), painted_colour("sea"))
    assert image.getpixel((127, 190)) == (255, 0, 0)
    assert is_near(image.getpixel((129, 190)), painted_colour("sea"), 8)
    assert json.loads(image.info["receipt"]) == info["receipts"][0]


def test_a_blurred_mask_has_soft_edges(server: httpx.Client) -> None:
    asked = {"init_images": [text_of(filled("red"))], "mask": text_of(half("black", "white")), "mask_blur": 4}
    (image,), _, _ = drawn(server, "/img2img", **USUAL, **asked, inpaint_full_res=False)
    assert image.getpixel((32, 47)) not in ((255, 0, 0), painted_colour("sea"))
    assert corners(image) == ((255, 0, 0), painted_colour("sea"))


@pytest.mark.parametrize(("mode", "left"), [(0, "red"), (1, "blend"), (2, "black")])
def test_a_picture_of_another_shape_is_stretched_cut_or_bordered(server: httpx.Client, mode: int, left: str) -> None:
    asked = {"init_images": [text_of(half("red", "blue", (96, 32)))], "denoising_strength": 0.01, "resize_mode": mode}
    (image,), _, _ = drawn(server, "/img2img", **{**USUAL, "width": 64, "height": 64}, **asked)
    wanted = {"red": (255, 0, 0), "blend": (255, 0, 0), "black": (0, 0, 0)}[left]
    assert image.size == (64, 64) and is_near(image.getpixel((0, 63)), wanted, 6)


@pytest.mark.parametrize(
    ("sent", "status", "param"),
    [
        ({}, 422, "init_images"),
        ({"init_images": []}, 422, "init_images"),
        ({"init_images": ["no base64!"]}, 422, "init_images"),
        ({"init_images": [text_of(b"no picture")]}, 422, "init_images"),
        ({"init_images": [text_of(filled())], "mask": text_of(b"no picture")}, 422, "mask"),
        ({"init_images": [text_of(filled())], "mask": text_of(filled()), "mask_blur": 1e9}, 422, "mask_blur"),
        ({"init_images": [text_of(filled())], "resize_mode": 7}, 422, "resize_mode"),
        ({"init_images": [text_of(filled())], "resize_mode": 1, "width": 10**6}, 422, "width"),
        ({"init_images": [text_of(filled())], "denoising_strength": 2}, 422, "strength"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_bad_pictures_are_refused(server: httpx.Client, sent: dict[str, Any], status: int, param: str) -> None:
    answer = server.post("/img2img", json={**USUAL, **sent})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == param


# ------------------------------------------------------------------------------------------- what there is


def test_a_model_is_chosen_for_the_requests_that_follow(server: httpx.Client) -> None:
    assert [row["title"] for row in server.get("/sd-models").json()] == ["sd-one", "sd-two"]
    assert server.get("/options").json()["sd_model_checkpoint"] == "sd-one"
    assert server.post("/options", json={"sd_model_checkpoint": "nowhere"}).status_code == 400
    assert server.post("/options", json={"sd_model_checkpoint": "sd-two", "CLIP_stop_at_last_layers": 1}).json() is None
    assert server.get("/options").json()["sd_model_checkpoint"] == "sd-two"
    assert drawn(server, prompt="a", steps=1)[1]["sd_model_name"] == "sd-two"
    named = drawn(server, prompt="a", steps=1, override_settings={"sd_model_checkpoint": "sd-one"})
    assert named[1]["sd_model_name"] == "sd-one"
    assert drawn(server, prompt="a", steps=1, model="sd-one")[1]["sd_model_name"] == "sd-one"
    server.post("/options", json={"sd_model_checkpoint": "sd-one"})


def test_lists_have_the_fields_that_clients_read(server: httpx.Client) -> None:
    assert {row["name"] for row in server.get("/samplers").json()} >= {"Euler", "Euler a", "DPM++ 2M Karras"}
    assert {row["name"] for row in server.get("/schedulers").json()} >= {"automatic", "karras"}
    assert [row["name"] for row in server.get("/loras").json()] == ["blue"]
    assert server.get("/upscalers").json() == []
    assert server.get("/memory").json()["ram"]["total"] > 0


def test_progress_is_seen_and_interrupted(server: httpx.Client, journal: Journal) -> None:
    idle = server.get("/progress").json()
    assert idle["state"]["job_count"] == 0 and idle["current_image"] is None
    asked = {**USUAL, "prompt": "stop me", "steps": 20, "model": "sd-two"}
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(server.post, "/txt2img", json=asked)
        seen = until(lambda: next((s for s in [server.get("/progress").json()] if s["current_image"]), None), within=15)
        assert 0 < seen["progress"] < 1 and seen["state"]["sampling_steps"] == 20 and seen["state"]["job_count"] == 1
        assert opened(seen["current_image"]).size == (64, 48)
        assert server.get("/progress", params={"skip_current_image": True}).json()["current_image"] is None
        ran = journal.wait_for("stop me", 1)
        assert server.post("/interrupt").json() == {}
        assert answer.result().status_code == 409
    assert journal.after("stop me", 3 * STEP_S) <= ran + 1
    assert server.get("/progress").json()["state"]["job_count"] == 0


def test_a_picture_says_how_it_was_made(server: httpx.Client) -> None:
    answer = server.post("/txt2img", json={**USUAL, "seed": 12}).json()
    told = server.post("/png-info", json={"image": answer["images"][0]}).json()
    assert told["info"] == json.loads(answer["info"])["infotexts"][0]
    assert told["parameters"]["Seed"] == "12" and told["parameters"]["Size"] == "64x48"
    assert json.loads(told["items"]["receipt"])["seed"] == 12
    assert server.post("/png-info", json={"image": text_of(filled())}).json()["info"] == ""
    assert server.post("/png-info", json={"image": "????"}).status_code == 422


# ------------------------------------------------------------------------------------------ worked by hand


@pytest.mark.parametrize(
    ("prompt", "rest", "loras"),
    [
        ("a cat", "a cat", []),
        ("<lora:blue>", "", [("blue", 1.0)]),
        ("a <lora:blue:0.5> cat <lora:red:-1>", "a  cat", [("blue", 0.5), ("red", -1.0)]),
        ("<lora:blue:0.5:0.7> a", "a", [("blue", 0.5)]),
        ("a < b", "a < b", []),
    ],
)
def test_loras_are_read_out_of_a_prompt(prompt: str, rest: str, loras: list[tuple[str, float]]) -> None:
    assert loras_in(prompt) == (rest, [{"name": name, "scale": scale} for name, scale in loras])


@pytest.mark.parametrize(
    ("box", "padding", "aspect", "found"),
    [
        ((40, 40, 60, 60), 0, 1.0, (40, 40, 60, 60)),
        ((40, 40, 60, 60), 5, 1.0, (35, 35, 65, 65)),
        ((40, 40, 60, 60), 0, 2.0, (30, 40, 70, 60)),
        ((40, 40, 60, 60), 0, 0.5, (40, 30, 60, 70)),
        ((0, 0, 20, 20), 10, 1.0, (0, 0, 40, 40)),
        ((90, 90, 100, 100), 0, 2.0, (80, 90, 100, 100)),
        ((0, 0, 100, 100), 50, 3.0, (0, 0, 100, 100)),
    ],
)
def test_surroundings_stay_within_the_picture(
    box: tuple[int, int, int, int], padding: int, aspect: float, found: tuple[int, int, int, int]
) -> None:
    assert around(box, padding, aspect, (100, 100)) == found


def test_the_last_line_of_a_text_has_its_parameters() -> None:
    text = "a cat, Steps: no\nNegative prompt: dogs\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 64x64"
    assert parameters_in(text) == {"Steps": "20", "Sampler": "Euler a", "CFG scale": "7", "Seed": "1", "Size": "64x64"}
