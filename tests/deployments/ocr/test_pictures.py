from __future__ import annotations

import struct
import zlib

import pytest
from PIL import Image

from cluster import errors
from deployments.ocr.pictures import opened
from tests.pages import as_file


def huge_png(width: int, height: int) -> bytes:
    """Says that it is so large, and is not."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("data", [b"", b"this is no picture", as_file(Image.new("RGB", (50, 50)))[:60]])
def test_what_is_no_picture_is_refused_by_its_name(data: bytes) -> None:
    with pytest.raises(errors.BadRequest, match=r"scan\.png"):
        opened(data, 10**6, "scan.png")


def test_a_picture_that_is_too_large_is_refused_before_it_is_unpacked() -> None:
    with pytest.raises(errors.BadRequest, match="too many pixels, 1 million are allowed"):
        opened(huge_png(100_000, 100_000), 10**6)
    with pytest.raises(errors.BadRequest, match="2000 x 2000 pixels; 1 million are allowed"):
        opened(huge_png(2000, 2000), 10**6)


def test_a_long_strip_is_refused_however_few_pixels_it_has() -> None:
    with pytest.raises(errors.BadRequest, match="20000 on a side"):
        opened(huge_png(1_000_000, 1), 10**7)


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
