"""Shows pictures in a terminal: by the escapes of kitty or iTerm2, or as coloured half blocks."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import IO, TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

Way = Literal["kitty", "iterm2", "blocks"]

#: The largest preview, in characters; a character is about twice as high as it is wide.
WIDEST, HIGHEST = 64, 24
#: Pixels of a character.
WIDTH, HEIGHT = 10, 20
#: The most characters that kitty takes in one escape.
PIECE = 4096


def way_of(variables: Mapping[str, str]) -> Way | None:
    """How the terminal with these environment variables shows pictures, None if they do not say that it can."""
    program, term = variables.get("TERM_PROGRAM", ""), variables.get("TERM", "")
    # tmux and screen pass no picture escapes on, yet keep the variables of the terminal that they run in.
    if not ("TMUX" in variables or term.startswith(("screen", "tmux"))):
        if "KITTY_WINDOW_ID" in variables or term in ("xterm-kitty", "xterm-ghostty") or program == "ghostty":
            return "kitty"
        if program in ("iTerm.app", "WezTerm") or variables.get("LC_TERMINAL") == "iTerm2":
            return "iterm2"
    return "blocks" if variables.get("COLORTERM") in ("truecolor", "24bit") else None


class TerminalPreviews:
    """Each picture replaces the previous one."""

    def __init__(self, way: Way, out: IO[str]) -> None:
        self._way = way
        self._out = out
        self._rows = 0

    def show(self, file: bytes) -> None:
        terminal = shutil.get_terminal_size()
        text, rows = drawn(file, self._way, min(WIDEST, terminal.columns), min(HIGHEST, terminal.lines - 4))
        back = f"\x1b[{self._rows}F" if self._rows else ""
        self._out.write(back + text)
        self._out.flush()
        self._rows = rows


def drawn(file: bytes, way: Way, columns: int, rows: int) -> tuple[str, int]:
    """The text that draws the picture within so many columns and rows and ends on the line below it; and its rows."""
    from PIL import Image

    picture = Image.open(BytesIO(file)).convert("RGB")
    scale = min(columns / picture.width, rows * 2 / picture.height)
    columns, rows = max(round(picture.width * scale), 1), max(round(picture.height * scale / 2), 1)
    if way == "blocks":
        small = picture.resize((columns, rows * 2), Image.Resampling.BOX)
        return "".join(f"{line}\x1b[0m\n" for line in _blocks(small)), rows
    png = BytesIO()
    picture.thumbnail((columns * WIDTH, rows * HEIGHT))
    picture.save(png, "PNG")
    escape = (_kitty if way == "kitty" else _iterm2)(png.getvalue(), columns, rows)
    # Make room first: the terminal may have to scroll, and drawing a picture does not make it scroll.
    return "\n" * rows + f"\x1b[{rows}A\x1b7{escape}\x1b8\x1b[{rows}B", rows


def _blocks(picture: PilImage) -> Iterator[str]:
    """Each character shows two pixels: the upper in its own colour, the lower in its background colour."""
    pixels = picture.load()
    for y in range(0, picture.height, 2):
        colours = [(*pixels[x, y], *pixels[x, y + 1]) for x in range(picture.width)]
        yield "".join("\x1b[38;2;{};{};{};48;2;{};{};{}m▀".format(*colour) for colour in colours)


def _kitty(png: bytes, columns: int, rows: int) -> str:
    """With one id, so that a picture replaces the one before; q=2 keeps the terminal from answering on stdin."""
    text = base64.b64encode(png).decode()
    pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
    first = f"a=T,f=100,C=1,q=2,i={os.getpid()},c={columns},r={rows},"
    last = len(pieces) - 1
    return "".join(
        f"\x1b_G{first if number == 0 else ''}m={int(number < last)};{piece}\x1b\\"
        for number, piece in enumerate(pieces)
    )


def _iterm2(png: bytes, columns: int, rows: int) -> str:
    arguments = f"inline=1;size={len(png)};width={columns};height={rows}"
    return f"\x1b]1337;File={arguments}:{base64.b64encode(png).decode()}\a"
