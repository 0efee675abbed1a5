"""The image routes of OpenAI's and Xinference's dialects, with a model whose pictures can be worked out by hand."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import httpx
import pytest

from deployments.image.http.forms import ALIASES, ImageFields
from deployments.image.http.sdapi import UNSERVED, Image2Image, Text2Image
from deployments.image.requests import Drawing
from tests.deployments.image.http.asking import EDITS, GENERATIONS, INPAINTING, VARIATIONS, assert_refused, drawn
from tests.described import held_to_its_description
from tests.live import LiveCluster
from tests.odd_files import png_claiming
from tests.painted import Journal, as_uri, blended, corners, filled, half, is_near, opened, painted_colour


def test_a_picture_comes_in_the_shape_of_openai(server: httpx.Client) -> None:
    body = drawn(server, json={"model": "a-painter", "prompt": "a red cat", "size": "96x64", "seed": 3})
    assert body.keys() == {"created", "background", "output_format", "quality", "size", "data", "usage"}
    assert (body["background"], body["output_format"], body["quality"]) == ("opaque", "png", "medium")
    assert body["size"] == "96x64"
    (row,) = body["data"]
    assert row.keys() == {"b64_json", "url", "revised_prompt", "seed", "receipt"}
    assert row["url"] is None and row["revised_prompt"] is None and row["seed"] == 3
    image = opened(row["b64_json"])
    assert image.format == "PNG" and image.size == (96, 64)
    assert corners(image) == (painted_colour("a red cat"),) * 2
    assert json.loads(image.info["receipt"]) == row["receipt"]
    assert body["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"text_tokens": 3, "image_tokens": 0},
        "output_tokens": 24,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": 24},
        "total_tokens": 27,
    }


def test_several_pictures_have_seeds_that_follow_or_that_are_given(server: httpx.Client) -> None:
    body = drawn(server, json={"prompt": "a", "n": 3, "seed": 40})
    assert [row["seed"] for row in body["data"]] == [40, 41, 42]
    assert len({row["b64_json"] for row in body["data"]}) == 3
    body = drawn(server, json={"prompt": "a", "n": 2, "seed": [9, 5]})
    assert [row["seed"] for row in body["data"]] == [9, 5]


def test_minus_one_is_any_seed(server: httpx.Client) -> None:
    body = drawn(server, json={"prompt": "a", "n": 2, "seed": [-1, -1]})
    assert len({row["seed"] for row in body["data"]}) == 2
    drawn(server, json={"prompt": "a", "seed": -1})


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_formats_are_what_was_asked_for(server: httpx.Client, format: str) -> None:
    body = drawn(server, json={"prompt": "a", "output_format": format, "output_compression": 60})
    assert body["output_format"] == format
    assert opened(body["data"][0]["b64_json"]).format == format.upper()


OPTIONS = {
    "seed": 5,
    "negative_prompt": "dogs",
    "num_inference_steps": 3,
    "guidance_scale": 4.5,
    "true_cfg_scale": 2.0,
    "sampler_name": "Euler",
    "max_sequence_length": 77,
    "loras": [{"name": "blue", "scale": 0.5}],
}


def test_options_stand_at_the_top_or_in_what_clients_nest(server: httpx.Client) -> None:
    asked = {"prompt": "a", "size": "64x64"}
    answers = [
        drawn(server, json={**asked, **OPTIONS}),
        drawn(server, json={**asked, "extra_body": OPTIONS}),
        drawn(server, json={**asked, "kwargs": json.dumps(OPTIONS)}),
        drawn(server, json={**asked, "kwargs": OPTIONS}),
        # The fields at the top count.
        drawn(server, json={**asked, **OPTIONS, "kwargs": {"seed": 99}}),
    ]
    receipts = [body["data"][0]["receipt"] for body in answers]
    assert all(receipt == receipts[0] for receipt in receipts)
    assert receipts[0]["seed"] == 5 and receipts[0]["num_inference_steps"] == 3
    assert receipts[0]["negative_prompt"] == "dogs" and receipts[0]["max_sequence_length"] == 77
    assert receipts[0]["loras"] == [{"name": "blue", "scale": 0.5}]


@pytest.mark.parametrize(
    ("asked", "steps", "told"),
    [
        ({}, 4, "medium"),
        ({"quality": "auto"}, 4, "medium"),
        ({"quality": "low"}, 2, "low"),
        ({"quality": "medium"}, 4, "medium"),
        ({"quality": "high"}, 6, "high"),
        ({"quality": "hd"}, 6, "high"),
        ({"quality": "max"}, 12, "max"),
        ({"quality": "high", "steps": 1}, 1, "high"),
    ],
)
def test_quality_is_a_share_of_the_usual_steps(
    server: httpx.Client, asked: dict[str, Any], steps: int, told: str
) -> None:
    body = drawn(server, json={"model": "a-painter", "prompt": "a", **asked})
    assert body["data"][0]["receipt"]["num_inference_steps"] == steps
    assert body["quality"] == told


@pytest.mark.parametrize("size", ["128x32", "128*32", "128X32", "128 x 32", "128,32"])
def test_a_size_may_be_written_as_any_client_does(server: httpx.Client, size: str) -> None:
    assert opened(drawn(server, json={"prompt": "a", "size": size})["data"][0]["b64_json"]).size == (128, 32)


def test_width_and_height_count_before_the_size_that_clients_always_send(server: httpx.Client) -> None:
    body = drawn(server, json={"prompt": "a", "size": "1024*1024", "kwargs": '{"width": 80, "height": 48}'})
    assert body["size"] == "80x48"


def test_what_openai_and_xinference_send_besides_is_taken(server: httpx.Client) -> None:
    sent = {"user": "me", "safety_identifier": "x", "moderation": "low", "style": "vivid", "background": "opaque"}
    drawn(server, json={"prompt": "a", **sent, "size": "auto", "kwargs": "{}", "partial_images": None, "stream": False})


BAD = [
    ({}, 422, "prompt"),
    ({"prompt": ""}, 422, "prompt"),
    ({"prompt": 5}, 422, "prompt"),
    ({"prompt": ["a", "b"]}, 422, "prompt"),
    ({"prompt": "a" * 32_001}, 422, "prompt"),
    ({"prompt": "a", "n": 0}, 422, "n"),
    ({"prompt": "a", "n": 17}, 422, "n"),
    ({"prompt": "a", "n": "many"}, 422, "n"),
    ({"prompt": "a", "size": "large"}, 422, "size"),
    ({"prompt": "a", "size": "0x64"}, 422, "width"),
    ({"prompt": "a", "size": "99999x64"}, 422, "width"),
    ({"prompt": "a", "size": "64x"}, 422, "size"),
    ({"prompt": "a", "size": [64, 64]}, 422, "size"),
    ({"prompt": "a", "size": "4096x4096"}, 400, "size"),
    ({"prompt": "a", "steps": 10**9}, 422, "num_inference_steps"),
    ({"prompt": "a", "num_inference_steps": 0}, 422, "num_inference_steps"),
    ({"prompt": "a", "guidance_scale": "nan"}, 422, "guidance_scale"),
    ({"prompt": "a", "guidance_scale": -1}, 422, "guidance_scale"),
    ({"prompt": "a", "strength": "inf"}, 422, "strength"),
    ({"prompt": "a", "kwargs": '{"true_cfg_scale": NaN}'}, 422, "kwargs"),
    ({"prompt": "a", "kwargs": "seed=5"}, 422, "kwargs"),
    ({"prompt": "a", "kwargs": [1]}, 422, "kwargs"),
    ({"prompt": "a", "kwargs": '{"sede": 5}'}, 422, "sede"),
    ({"prompt": "a", "seed": 2**70}, 422, "seed"),
    ({"prompt": "a", "seed": -5}, 422, "seed"),
    ({"prompt": "a", "seed": [1, 2]}, 422, None),
    ({"prompt": "a", "quality": "best"}, 422, "quality"),
    ({"prompt": "a", "background": "transparent"}, 400, "background"),
    ({"prompt": "a", "background": "pink"}, 422, "background"),
    ({"prompt": "a", "output_format": "gif"}, 422, "output_format"),
    ({"prompt": "a", "output_compression": 101}, 422, "output_compression"),
    ({"prompt": "a", "response_format": "file"}, 422, "response_format"),
    ({"prompt": "a", "partial_images": 4, "stream": True}, 422, "partial_images"),
    ({"prompt": "a", "stream": True, "background": True}, 400, "stream"),
    ({"prompt": "a", "request_id": "two words"}, 422, "request_id"),
    ({"prompt": "a", "loras": [{"nam": "x"}]}, 422, "loras"),
    ({"prompt": "a", "image": "AAAA"}, 422, "images"),
    ({"prompt": "a", "guidence_scale": 3}, 422, "guidence_scale"),
    ({"prompt": "a", "model": 5}, 422, "model"),
    ({"prompt": "a", "model": "nowhere"}, 404, "model"),
    ({"prompt": "a", "model": "b-editor"}, 400, "model"),
]


@pytest.mark.parametrize(("body", "status", "param"), BAD, ids=lambda value: str(value)[:50])
def test_what_cannot_be_drawn_is_refused_before_a_step_is_taken(
    server: httpx.Client, journal: Journal, body: Any, status: Any, param: Any
) -> None:
    before = len(journal)
    assert_refused(server.post(GENERATIONS, json=body), status, param)
    assert len(journal) == before


def test_a_misspelt_field_is_told_the_nearest(server: httpx.Client) -> None:
    told = assert_refused(server.post(GENERATIONS, json={"prompt": "a", "guidence_scale": 3}), 422)
    assert told == "There is no field 'guidence_scale'; did you mean 'guidance_scale'?"


@pytest.mark.parametrize("path", [GENERATIONS, EDITS, VARIATIONS, INPAINTING])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b'{"prompt": NaN}', b"\xff"])
def test_what_is_no_json_object_is_refused(server: httpx.Client, path: Any, body: bytes) -> None:
    assert_refused(server.post(path, content=body), 422)


NESTED = json.loads("[" * 900 + "]" * 900)
ODD = (-1, 2**70, 1.5, True, "odd", "", [], {}, [None], [5, "a"], {"text": 5}, [{"image": 5}], "\0", NESTED)  # type: ignore[var-annotated]
FIELDS = {
    GENERATIONS: [*ImageFields.model_fields, *Drawing.model_fields, *ALIASES, "kwargs", "extra_body"],
    "/sdapi/v1/txt2img": [*Text2Image.model_fields, *UNSERVED],
    "/sdapi/v1/img2img": list(Image2Image.model_fields),
}


@pytest.mark.parametrize("path", FIELDS)
def test_any_field_may_hold_anything_and_is_taken_or_refused(
    live: LiveCluster, server: httpx.Client, path: str
) -> None:
    """The routes accept more than their description says, so only the answers are compared with it."""
    whole = {"prompt": "a", "steps": 1, "init_images": [as_uri(filled()).partition(",")[2]]}
    whole = whole if path.startswith("/sdapi") else {"prompt": "a"}
    hooks = held_to_its_description(live.url, bodies=False)
    with httpx.Client(base_url=live.url, timeout=20, event_hooks=hooks) as anything:
        for name, value in product(FIELDS[path], ODD):
            answer = anything.post(path, json={**whole, name: value})
            assert answer.status_code in (200, 202) or 400 <= answer.status_code < 500, (
                name,
                str(value)[:60],
                answer.text,
            )
            if answer.status_code >= 400:
                assert answer.json()["detail"] and answer.json()["error"]["param"], (name, str(value)[:60], answer.text)
        assert anything.post(path, json=whole).status_code == 200


def test_without_a_name_the_first_model_that_can_is_asked(server: httpx.Client) -> None:
    assert drawn(server, json={"prompt": "a"})["data"][0]["receipt"]["num_inference_steps"] == 4
    body = drawn(server, VARIATIONS, files={"image": filled()})
    assert body["data"][0]["receipt"]["task"] == "image2image"


def test_a_model_that_only_changes_whole_pictures_says_so(server: httpx.Client) -> None:
    asked = {"data": {"model": "b-editor", "prompt": "a"}, "files": {"image": filled(), "mask": filled("white")}}
    told = assert_refused(server.post(EDITS, **asked), 400, "mask")
    assert told == "Model b-editor takes no mask: it changes pictures as a whole; leave the mask out."


@pytest.mark.parametrize("name", ["image", "image[]", "images", "images[]"])
def test_a_picture_to_edit_comes_under_any_of_its_names(server: httpx.Client, name: str) -> None:
    body = drawn(server, EDITS, data={"prompt": "sea", "n": "2", "seed": "7"}, files=[(name, ("a.png", filled("red")))])
    assert len(body["data"]) == 2 and body["size"] == "64x48"
    left, right = corners(opened(body["data"][0]["b64_json"]))
    assert is_near(left, blended((255, 0, 0), painted_colour("sea"))) and left == right
    assert body["usage"]["input_tokens_details"]["image_tokens"] == 64 * 48 // 256


def test_edits_may_be_json_with_pictures_in_it(server: httpx.Client) -> None:
    uri = as_uri(filled("red"))
    wanted = drawn(server, EDITS, data={"prompt": "sea"}, files={"image": filled("red")})["data"][0]["b64_json"]
    for given in (uri, [uri], uri.partition(",")[2], {"image_url": uri}, [{"image_url": {"url": uri}}]):
        body = drawn(server, EDITS, json={"prompt": "sea", "images": given})
        assert body["data"][0]["b64_json"] == wanted


def test_no_picture_is_fetched_unless_that_is_allowed(server: httpx.Client) -> None:
    asked = {"prompt": "a", "image": "http://127.0.0.1/x.png"}
    assert "CLUSTER_FETCH_URLS" in assert_refused(server.post(EDITS, json=asked), 400, "image")


def test_several_pictures_come_in_their_order(server: httpx.Client) -> None:
    files = [("image[]", ("a.png", filled("red"))), ("image[]", ("b.png", filled("blue")))]
    first = drawn(server, EDITS, data={"prompt": "a"}, files=files)["data"][0]["b64_json"]
    other = drawn(server, EDITS, data={"prompt": "a"}, files=files[::-1])["data"][0]["b64_json"]
    assert corners(opened(first))[0][0] > corners(opened(other))[0][0]


CLEAR, SOLID = (0, 0, 0, 0), (0, 0, 0, 255)


@pytest.mark.parametrize(
    ("path", "name", "mask", "painted"),
    [
        # The transparent part is redrawn.
        (EDITS, "mask", half(CLEAR, SOLID, mode="RGBA"), "left"),
        (EDITS, "mask", half(SOLID, CLEAR, mode="RGBA"), "right"),
        # Nothing is transparent, so the white part is redrawn.
        (EDITS, "mask", half("white", "black"), "left"),
        (EDITS, "mask", half(0, 255, mode="L"), "right"),
        (EDITS, "mask", half((255, 255, 255, 255), SOLID, mode="RGBA"), "left"),
        (INPAINTING, "mask_image", half("white", "black"), "left"),
        (INPAINTING, "mask_image", half("black", "white"), "right"),
        (INPAINTING, "mask", half("black", "white", size=(32, 24)), "right"),
    ],
)
def test_a_mask_says_what_is_drawn_anew_in_its_dialects_way(
    server: httpx.Client, path: Any, name: str, mask: Any, painted: str
) -> None:
    files = {"image": filled("red"), name: mask}
    body = drawn(server, path, data={"prompt": "sea"}, files=files)
    assert body["data"][0]["receipt"]["task"] == "inpainting"
    new, old = painted_colour("sea"), (255, 0, 0)
    assert corners(opened(body["data"][0]["b64_json"])) == ((new, old) if painted == "left" else (old, new))


def test_a_variation_needs_neither_prompt_nor_model(server: httpx.Client) -> None:
    body = drawn(server, VARIATIONS, files={"image": filled("red")})
    assert is_near(corners(opened(body["data"][0]["b64_json"]))[0], blended((255, 0, 0), painted_colour("")))


def test_a_variation_with_a_prompt_is_xinferences(server: httpx.Client) -> None:
    data = {"model": "a-painter", "prompt": "sea", "negative_prompt": "", "kwargs": '{"strength": 1.0, "seed": 4}'}
    body = drawn(server, VARIATIONS, data=data, files={"image": filled("red")})
    assert corners(opened(body["data"][0]["b64_json"]))[0] == painted_colour("sea") and body["data"][0]["seed"] == 4


@pytest.mark.parametrize(
    ("image", "status"),
    [
        (b"", 422),
        (b"no picture", 422),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422),
        (b"%!PS-Adobe-3.0 EPSF-3.0", 422),
        (filled()[:20], 422),
        (b"RIFF\x10\0\0\0WAVEfmt ", 422),
        (filled()[:-30], 400),
        (png_claiming(12_000, 12_000), 413),
        (png_claiming(60_000, 60_000), 413),
        (png_claiming(0, 5), 422),
        (filled() + b"\0" * 20_000_000, 413),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_picture_or_too_much_of_one_is_refused(server: httpx.Client, image: Any, status: int) -> None:
    files = [("image", ("a.png", image))]
    assert_refused(server.post(EDITS, data={"prompt": "a"}, files=files), status, "image")
    drawn(server, EDITS, data={"prompt": "a"}, files={"image": filled()})


def test_pictures_are_counted_together(server: httpx.Client) -> None:
    files = [("image[]", ("a.png", png_claiming(7000, 7000)))] * 3
    told = assert_refused(server.post(EDITS, data={"prompt": "a"}, files=files), 413, "image")
    assert told == "The pictures of the request have 147.0 million pixels or more, 100.0 million are allowed."


def test_a_bad_mask_is_told_by_its_name(server: httpx.Client) -> None:
    for path, name in ((EDITS, "mask"), (INPAINTING, "mask_image")):
        files = {"image": filled(), name: b"no mask"}
        assert_refused(server.post(path, data={"prompt": "a"}, files=files), 422, name)
        files[name] = png_claiming(60_000, 60_000)
        assert_refused(server.post(path, data={"prompt": "a"}, files=files), 413, name)


def test_forms_that_do_not_fit_are_refused(server: httpx.Client) -> None:
    image = {"image": filled()}
    assert_refused(server.post(EDITS, data={"prompt": "a"}), 422, "image")
    assert_refused(server.post(EDITS, files=image), 422, "prompt")
    assert_refused(server.post(EDITS, data={"prompt": "a", "imaeg": "x"}, files=image), 422, "imaeg")
    assert_refused(server.post(EDITS, data={"prompt": "a", "seed": "one"}, files=image), 422, "seed")
    assert_refused(server.post(EDITS, data={"prompt": "a"}, files={**image, "user": b"x"}), 422, "user")
    assert_refused(server.post(INPAINTING, data={"prompt": "a"}, files=image), 422, "mask_image")
    assert_refused(server.post(EDITS, data={"prompt": "a"}, files=[("image", ("a", filled()))] * 21), 400)
    assert_refused(server.post(EDITS, data={"prompt": "a"}, files=[("image", ("a", filled()))] * 17), 422, "images")
    torn = {"content-type": "multipart/form-data; boundary=x"}
    assert_refused(server.post(EDITS, content=b"--x\r\nnonsense\r\n\r\nx\r\n--x--", headers=torn), 400)
    assert_refused(server.post(EDITS, content=b"--x", headers={"content-type": "multipart/form-data"}), 400)
