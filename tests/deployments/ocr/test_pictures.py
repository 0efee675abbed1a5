from __future__ import annotations

import pytest
from PIL import Image

from cluster import errors
from deployments.ocr.pictures import ScannedPage, sent
from tests.odd_files import png_claiming
from tests.pages import as_file


def opened(data: bytes, most_pixels: int, param: str = "image") -> ScannedPage:
    return sent(data, most_pixels, param).opened()


@pytest.mark.parametrize("data", [b"", b"this is no picture", as_file(Image.new("RGB", (50, 50)))[:60]])
def test_what_is_no_picture_is_refused_by_its_name(data: bytes) -> None:
    with pytest.raises(errors.BadRequest, match=r"scan\.png"):
        opened(data, 10**6, "scan.png")


def test_a_picture_that_is_too_large_is_refused_before_it_is_unpacked() -> None:
    with pytest.raises(errors.BadRequest, match="too many pixels, 1 million are allowed"):
        opened(png_claiming(100_000, 100_000), 10**6)
    with pytest.raises(errors.BadRequest, match="2000 x 2000 pixels; 1 million are allowed"):
        opened(png_claiming(2000, 2000), 10**6)


def test_a_long_strip_is_refused_however_few_pixels_it_has() -> None:
    with pytest.raises(errors.BadRequest, match="20000 on a side"):
        opened(png_claiming(1_000_000, 1), 10**7)


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("RGBA", (8, 8), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("L", (8, 8), 128), (128, 128, 128)),
        (Image.new("1", (8, 8), 1), (255, 255, 255)),
        (Image.new("I;16", (8, 8), 65_535), (255, 255, 255)),
        (Image.new("P", (8, 8), 0), (0, 0, 0)),
    ],
    ids=["transparent", "grey", "bits", "16 bits", "palette"],
)
def test_every_kind_of_picture_becomes_three_colours_on_white(image: Image.Image, colour: tuple[int, ...]) -> None:
    assert opened(as_file(image), 10**6).image.getpixel((4, 4)) == colour


def test_a_photograph_is_turned_as_its_camera_was_held() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = as_file(Image.new("RGB", (40, 20)), "JPEG", exif=exif, dpi=(300, 300))
    sheet = opened(data, 10**6)
    assert sheet.size == (20, 40) and sheet.dpi == 300
