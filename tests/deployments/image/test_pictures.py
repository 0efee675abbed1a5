"""Files that become pictures and pictures that become files."""

from __future__ import annotations

import io
import json
import random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cluster import errors
from deployments.image import pictures
from tests.deployments.image.painter import as_file
from tests.odd_files import png_claiming

MOST = 10_000
RECEIPT = {"prompt": "a cät", "negative_prompt": "fog", "seed": 7, "num_inference_steps": 4, "width": 4, "height": 2}


# ------------------------------------------------------------------------------------------------------- read


@pytest.mark.parametrize("side", [101, 20_000, 60_000])
def test_what_would_unpack_to_too_much_is_refused_by_its_head(side: int) -> None:
    with pytest.raises(errors.BadRequest) as raised:
        pictures.read(png_claiming(side, side), MOST, "image")
    assert str(side) in raised.value.message or "decompression bomb" in raised.value.message
    assert raised.value.param == "image"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a picture",
        b"GIF89a",
        as_file(Image.new("RGB", (50, 50)))[:-40],
        png_claiming(50, 50),
        as_file(Image.new("RGB", (9, 9)), "JPEG")[:300],
    ],
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(errors.BadRequest, match="mask is not a readable picture"):
        pictures.read(data, MOST, "mask")


@pytest.mark.parametrize("format", ["TIFF", "EPS", "PPM", "ICO"])
def test_rare_formats_are_not_decoded(format: str) -> None:
    with pytest.raises(errors.BadRequest, match="not a readable picture"):
        pictures.read(as_file(Image.new("RGB", (16, 16)), format), MOST, "image")


@pytest.mark.parametrize("format", pictures.FORMATS)
def test_broken_files_are_refused_and_nothing_else(format: str) -> None:
    whole = as_file(Image.effect_noise((24, 16), 80).convert("RGB"), format)
    chance = random.Random(format)
    outcomes = set()
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 3, 20])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            outcomes.add(pictures.read_colours(bytes(data), MOST, "image").mode)
        except errors.BadRequest:
            outcomes.add("refused")
    assert outcomes == {"RGB", "refused"}


def test_a_photo_is_turned_as_its_camera_was() -> None:
    image = Image.new("RGB", (20, 10), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    assert pictures.read(as_file(image, "JPEG", exif=exif), MOST, "image").size == (10, 20)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode: str) -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 0, 255))
    found = pictures.read_colours(as_file(image.convert(mode)), MOST, "image")
    assert found.mode == "RGB"
    assert found.getpixel((3, 3)) == (255, 255, 255)
    assert found.getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "P"])
def test_other_colours_become_three(mode: str) -> None:
    format = "JPEG" if mode == "CMYK" else "PNG"
    found = pictures.read_colours(as_file(Image.new("RGB", (4, 4), "white").convert(mode), format), MOST, "image")
    assert (found.mode, found.getpixel((1, 1))) == ("RGB", (255, 255, 255))


def test_sixteen_bits_of_grey_keep_their_brightness() -> None:
    grey = Image.fromarray(np.array([[0, 30_000, 65_535]], dtype=np.uint16))
    found = pictures.read_colours(as_file(grey), MOST, "image")
    assert [found.getpixel((place, 0))[0] for place in range(3)] == [0, 116, 255]


# ---------------------------------------------------------------------------------------------------- written


def test_numbers_become_the_nearest_colours() -> None:
    pixels = np.array([[[0.0, 0.5, 1.0], [-0.2, 1.2, 0.1]]])
    assert np.asarray(pictures.from_pixels(pixels)).tolist() == [[[0, 128, 255], [0, 255, 26]]]
    assert pictures.from_pixels(np.zeros((3, 2, 1))).mode == "L"
    assert pictures.from_pixels(np.zeros((3, 2, 4))).mode == "RGBA"


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_every_format_takes_every_picture(mode: str, format: Any) -> None:
    data = pictures.written(Image.new(mode, (16, 8), "white"), format, 90, RECEIPT)
    found = Image.open(io.BytesIO(data))
    assert (found.format, found.size) == (format.upper(), (16, 8))
    assert found.convert("RGB").getpixel((3, 3)) == (255, 255, 255)


def test_a_png_says_how_it_was_made() -> None:
    found = Image.open(io.BytesIO(pictures.written(Image.new("RGB", (4, 2)), "png", 0, RECEIPT)))
    assert json.loads(found.text["receipt"]) == RECEIPT
    lines = found.text["parameters"].splitlines()
    assert lines == ["a cät", "Negative prompt: fog", "Steps: 4, Seed: 7, Size: 4x2"]


def test_a_jpeg_says_how_it_was_made_unless_that_is_too_long() -> None:
    found = Image.open(io.BytesIO(pictures.written(Image.new("RGB", (4, 2)), "jpeg", 90, RECEIPT)))
    assert json.loads(found.info["comment"]) == RECEIPT
    endless = {**RECEIPT, "prompt": "ä" * 32_000}
    found = Image.open(io.BytesIO(pictures.written(Image.new("RGB", (4, 2)), "jpeg", 90, endless)))
    assert not found.info.get("comment")


def test_quality_decides_the_size() -> None:
    image = Image.effect_noise((64, 64), 80).convert("RGB")
    for format in ("jpeg", "webp"):
        poor, good = (len(pictures.written(image, format, quality, {})) for quality in (10, 95))
        assert poor < good / 2
