"""Pictures in a terminal: which way it knows, and what is sent to it."""

from __future__ import annotations

import base64
import re
from io import BytesIO, StringIO

import pytest
from PIL import Image

from cluster.cli.preview import TerminalPreviews, drawn, way_of
from tests.cluster.client.image_server import picture


@pytest.mark.parametrize(
    ("variables", "way"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM_PROGRAM": "iTerm.app", "COLORTERM": "truecolor"}, "iterm2"),
        ({"LC_TERMINAL": "iTerm2"}, "iterm2"),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, "blocks"),
        ({"COLORTERM": "24bit"}, "blocks"),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1", "COLORTERM": "truecolor"}, "blocks"),
        ({"TERM": "xterm", "TMUX": "/tmp/tmux", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "xterm"}, None),
        ({}, None),
    ],
)
def test_a_terminal_says_in_its_variables_what_it_can(variables: dict[str, str], way: str | None) -> None:
    assert way_of(variables) == way


def flag() -> bytes:
    """Red over blue, twice as wide as high."""
    image = Image.new("RGB", (64, 32), "red")
    image.paste("blue", (0, 16, 64, 32))
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_a_half_block_is_two_pixels() -> None:
    text, rows = drawn(flag(), "blocks", columns=4, rows=10)
    # 4 by 2 pixels, and a character holds two of them.
    assert rows == 1
    colours = re.findall(r"\x1b\[38;2;(\d+;\d+;\d+);48;2;(\d+;\d+;\d+)m▀", text)
    assert colours == [("255;0;0", "0;0;255")] * 4
    assert text.endswith("\x1b[0m\n")


@pytest.mark.parametrize(
    ("width", "height", "columns", "rows"), [(640, 320, 40, 10), (320, 640, 12, 12), (64, 6400, 1, 12), (8, 8, 24, 12)]
)
def test_a_picture_keeps_its_shape_in_the_room_it_has(width: int, height: int, columns: int, rows: int) -> None:
    text, found = drawn(picture("red", width, height), "blocks", columns=40, rows=12)
    lines = text.splitlines()
    assert (found, len(lines), lines[0].count("▀")) == (rows, rows, columns)


def test_kitty_gets_a_png_in_pieces_it_can_take() -> None:
    noise = Image.effect_noise((640, 480), 100)
    file = BytesIO()
    noise.save(file, "WEBP", lossless=True)
    text, rows = drawn(file.getvalue(), "kitty", columns=40, rows=20)
    pieces = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert len(pieces) > 2 and max(len(data) for _, data in pieces) == 4096
    assert [re.search(r"m=(\d)", about)[1] for about, _ in pieces] == ["1"] * (len(pieces) - 1) + ["0"]
    assert f"c=40,r={rows}," in pieces[0][0]
    shown = Image.open(BytesIO(base64.b64decode("".join(data for _, data in pieces))))
    assert (shown.format, shown.size) == ("PNG", (400, 300))


def test_iterm2_gets_a_png_and_its_size() -> None:
    text, rows = drawn(flag(), "iterm2", columns=8, rows=20)
    about, data = re.search(r"\x1b\]1337;File=([^:]*):([^\a]*)\a", text).groups()
    file = base64.b64decode(data)
    assert about == f"inline=1;size={len(file)};width=8;height={rows}"
    assert Image.open(BytesIO(file)).getpixel((0, 0)) == (255, 0, 0)


def test_the_next_picture_takes_the_place_of_the_last() -> None:
    out = StringIO()
    previews = TerminalPreviews("blocks", out)
    previews.show(flag())
    first = out.getvalue()
    rows = first.count("\n")
    previews.show(flag())
    assert out.getvalue() == first + f"\x1b[{rows}F" + first
