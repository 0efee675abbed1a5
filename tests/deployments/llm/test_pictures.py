"""Pictures in messages: which are read, and what an engine gets of them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image, ImageOps

from cluster import errors
from deployments.llm.pictures import picture_part, pictures_in, pixmap, seen_of_each, sizes_of, with_pixels
from deployments.llm.templates import plain, refuse_pictures
from tests.seeing import picture

TEXT = {"type": "text", "text": "What is it?"}


def message(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "system", "content": "See."}, {"role": "user", "content": list(parts)}]


def bomb(side: int) -> bytes:
    """A PNG file of a few hundred bytes that says it has so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 10_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_pictures_come_in_the_order_of_their_messages() -> None:
    first, second = picture("red"), picture("blue")
    messages = message(TEXT, picture_part(first), picture_part(second))
    assert pictures_in(messages) == [first, second]
    assert pictures_in([{"role": "user", "content": "hi"}, {"role": "assistant", "content": None}]) == []


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"type": "input_audio", "input_audio": {"data": "aGk="}}, "must be a text or a picture, not 'input_audio'"),
        ({"type": "video_url", "video_url": {"url": "http://a/b"}}, "must be a text or a picture, not 'video_url'"),
        ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, "are read by the routes of chats"),
        ({"type": "picture", "data": "not bytes"}, "are read by the routes of chats"),
        ("hi", "must be a text or a picture"),
        (None, "must be a text or a picture"),
    ],
)
def test_parts_that_are_neither_texts_nor_pictures_reach_no_engine(part: Any, says: str) -> None:
    with pytest.raises(errors.BadRequest, match=says):
        pictures_in(message(part))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (bomb(10_000), r"Picture 1 of the request has 10000 x 10000 pixels; at most 50,000,000 are decoded"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='/etc/passwd'/></svg>", "is not a readable picture"),
        (b"GIF89a", "picture"),
        (b"hello", "is not a readable picture"),
        (picture("red", (1000, 1)), "1000 x 1 pixels: one side may be 200 times as long as the other"),
    ],
)
def test_what_is_no_picture_is_refused_by_the_beginning_of_its_file(data: bytes, says: str) -> None:
    with pytest.raises(errors.BadRequest, match=says):
        sizes_of(message(picture_part(data)))


def test_files_that_would_be_unpacked_for_long_are_refused_together() -> None:
    photo = picture_part(bomb(7000))
    assert sizes_of(message(*[photo] * 4)) == [(2048, 2048)] * 4
    with pytest.raises(errors.BadRequest, match="The 5 pictures of the request have 245,000,000 pixels together; at"):
        sizes_of(message(*[photo] * 5))


def test_nothing_more_is_unpacked_for_somebody_who_has_left() -> None:
    unpacked: list[None] = []

    def check() -> None:
        if unpacked:
            raise errors.RequestCancelled("It was stopped.")
        unpacked.append(None)

    red, broken = picture_part(picture("red")), picture_part(b"")
    with pytest.raises(errors.RequestCancelled):
        with_pixels(message(red, broken), check)


def odd_exif(tag: int, kind: int) -> bytes:
    """A JPEG file whose camera was held upright, and which says nonsense of something else."""
    tiff = b"II*\0" + struct.pack("<IH", 8, 2)
    tiff += struct.pack("<HHI4s", tag, kind, 4, b"abc\0") + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    file = io.BytesIO()
    Image.new("RGB", (8, 4), "red").save(file, "JPEG", exif=b"Exif\0\0" + tiff + b"\0" * 4)
    return file.getvalue()


@pytest.mark.parametrize("tag", [0x0100, 0x011A])
def test_a_picture_with_odd_notes_of_its_camera_is_seen_all_the_same(tag: int) -> None:
    assert pixmap(odd_exif(tag, 2), 1, 100).startswith(b"P6 4 8 255\n")


@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_stand_as_their_cameras_were_held(turn: int) -> None:
    image, notes, file = Image.new("RGB", (3, 2)), Image.Exif(), io.BytesIO()
    image.putdata([(value, 0, 0) for value in range(6)])
    notes[0x0112] = turn
    image.save(file, "PNG", exif=notes)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(file.getvalue())))
    assert pixmap(file.getvalue(), 1, 100) == b"P6 %d %d 255\n" % upright.size + upright.tobytes()


def test_a_picture_that_breaks_off_is_refused_when_it_is_unpacked() -> None:
    data = picture("red", (300, 300), "JPEG")[:-200]
    assert sizes_of(message(picture_part(data))) == [(300, 300)]
    with pytest.raises(errors.BadRequest, match="cannot be read"):
        pixmap(data, 1, 10**6)


def test_a_tiff_file_is_turned_once() -> None:
    turned, file = Image.Exif(), io.BytesIO()
    turned[274] = 6
    Image.linear_gradient("L").resize((40, 20)).convert("RGB").save(file, "TIFF", exif=turned)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(file.getvalue())))
    assert upright.size == (20, 40)
    assert pixmap(file.getvalue(), 1, 1000) == b"P6 %d %d 255\n" % upright.size + upright.tobytes()


def test_an_engine_gets_pixels_that_stand_upright_on_white() -> None:
    image = Image.new("RGB", (2, 1), "red")
    image.putpixel((1, 0), (0, 0, 255))
    turned, file = Image.Exif(), io.BytesIO()
    turned[274] = 6  # its camera was held upright
    image.save(file, "PNG", exif=turned)
    assert pixmap(file.getvalue(), 0, 100) == b"P6 1 2 255\n\xff\x00\x00\x00\x00\xff"
    clear = io.BytesIO()
    Image.new("RGBA", (1, 1), (0, 0, 0, 0)).save(clear, "PNG")
    assert pixmap(clear.getvalue(), 0, 100) == b"P6 1 1 255\n\xff\xff\xff"


def test_large_pictures_are_made_smaller_and_many_of_them_more_so() -> None:
    assert (seen_of_each(0), seen_of_each(4), seen_of_each(16)) == (2**22, 2**22, 2**20)
    large = picture_part(picture("red", (4000, 2000), "JPEG"))
    assert sizes_of(message(large)) == [(2896, 1448)]
    assert sizes_of(message(*[large] * 16)) == [(1448, 724)] * 16
    assert pixmap(large["data"], 0, 1000).startswith(b"P6 44 22 255\n")
    assert len(pixmap(large["data"], 0, 1000)) == 13 + 44 * 22 * 3


def test_a_model_that_reads_texts_only_says_which_engine_sees() -> None:
    says = r"A message has a picture, and this model reads texts only: .*model_engine=llamacpp and its mmproj file"
    with pytest.raises(errors.BadRequest, match=says):
        plain(message(TEXT, picture_part(b"")))
    with pytest.raises(errors.BadRequest, match="texts only: go on"):
        refuse_pictures(message(picture_part(b"")), "go on")
    assert plain(message(TEXT, {"type": "input_text", "text": "Well?"}))[1]["content"] == "What is it?\nWell?"
