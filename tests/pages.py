"""Pages with known text, drawn with the fonts of this machine, to measure models that read."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SANS, BOLD, MONO, SERIF = "DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSansMono.ttf", "DejaVuSerif.ttf"

WORDS = (
    "the harbour lies quiet under morning fog while two fishing boats return with lamps still burning and gulls "
    "circle above the market where traders unfold canvas roofs count small change argue about prices and wait for "
    "customers who walk slowly along wet stones between barrels ropes crates of silver herring and baskets full of "
    "oranges that came by ship from southern ports during an unusually calm week in late November"
).split()

INVOICE = (
    "Northwind Marine Supplies Ltd.",
    "Invoice No. 2024-0815",
    "Date: 17 March 2024    Due: 16 April 2024",
    "Bill to: Harbour Works GmbH, Kai 7, 20457 Hamburg",
    "1  Rope, braided, 12 mm          40 m     3.20     128.00",
    "2  Shackle, stainless, M8        25 pc    4.75     118.75",
    "3  Anchor chain, galvanised      60 m    11.90     714.00",
    "4  Fender, white, 180 x 600       8 pc   23.50     188.00",
    "Subtotal EUR 1,148.75",
    "VAT 19 % EUR 218.26",
    "Total EUR 1,367.01",
    "Please pay within 30 days to DE89 3704 0044 0532 0130 00.",
)


@dataclass(frozen=True)
class Drawn:
    name: str
    image: Any
    #: The lines in the order in which a person reads them.
    lines: tuple[str, ...]

    @property
    def png(self) -> bytes:
        return as_file(self.image)


def as_file(image: Any, format: str = "PNG", **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, format, **options)
    return target.getvalue()


def font(name: str, size: int) -> Any:
    return ImageFont.truetype(name, size)


def prose(seed: int, lines: int, least: int, most: int) -> tuple[str, ...]:
    """Lines of about that many characters: random words with a number or a comma here and there."""
    chance = random.Random(seed)
    found = []
    for _ in range(lines):
        wanted, line = chance.randint(least, most), ""
        while len(line) < wanted:
            word = chance.choice(WORDS)
            if chance.random() < 0.06:
                word = str(chance.randint(2, 9800))
            line += (" " if line else "") + (word.capitalize() if chance.random() < 0.1 else word)
            if chance.random() < 0.08:
                line += ","
        found.append(line[:wanted].rstrip(" ,") + ".")
    return tuple(found)


def written(
    lines: Sequence[str],
    size: tuple[int, int],
    face: str = SANS,
    height: int = 24,
    *,
    start: tuple[int, int] = (50, 50),
    step: float = 1.6,
    ink: Any = "black",
    paper: Any = "white",
    onto: Any = None,
) -> Any:
    image = Image.new("RGB", size, paper) if onto is None else onto
    pen, letters = ImageDraw.Draw(image), font(face, height)
    for number, line in enumerate(lines):
        pen.text((start[0], start[1] + number * height * step), line, ink, letters)
    return image


def invoice() -> Drawn:
    return Drawn("invoice", written(INVOICE, (1000, 800), SANS, 26, step=2.2), INVOICE)


def small() -> Drawn:
    lines = prose(3, 20, 60, 80)
    return Drawn("13 px", written(lines, (700, 520), SANS, 13, start=(30, 30), step=1.7), lines)


def monospace() -> Drawn:
    """A listing in columns, which is read row by row."""
    chance = random.Random(5)
    rows = [("ITEM", "QTY", "PRICE", "TOTAL")]
    for _ in range(14):
        count, price = chance.randint(1, 40), chance.randint(100, 9900)
        rows.append((chance.choice(WORDS).upper(), str(count), f"{price / 100:.2f}", f"{count * price / 100:.2f}"))
    lines = tuple(f"{item:<16}{quantity:>6}{price:>12}{total:>14}" for item, quantity, price, total in rows)
    return Drawn("monospace", written(lines, (900, 700), MONO, 22, step=1.8), lines)


def blurred() -> Drawn:
    lines = prose(7, 14, 45, 60)
    image = written(lines, (1000, 720), SERIF, 25, step=1.75).filter(ImageFilter.GaussianBlur(1.2))
    noise = np.random.default_rng(0).normal(0, 0.03 * 255, (720, 1000, 3))
    noisy = (np.asarray(image, float) + noise).clip(0, 255).astype("uint8")
    return Drawn("blur and noise", Image.fromarray(noisy), lines)


def dark() -> Drawn:
    lines = prose(11, 14, 45, 60)
    return Drawn("light on dark", written(lines, (1000, 700), ink=(235, 235, 220), paper=(20, 24, 40)), lines)


def tilted(degrees: float = 5.0) -> Drawn:
    """Turned clockwise, on a larger sheet, so that nothing is cut off."""
    lines = prose(13, 14, 45, 60)
    image = written(lines, (1000, 700)).rotate(-degrees, Image.BICUBIC, expand=True, fillcolor="white")
    return Drawn(f"{degrees:g} degrees", image, lines)


def turned(degrees: int = 180) -> Drawn:
    """Turned by quarters, clockwise."""
    lines = prose(17, 14, 45, 60)
    return Drawn(f"{degrees} degrees", written(lines, (1000, 700)).rotate(-degrees, expand=True), lines)


def dense(seed: int = 19, count: int = 55) -> Drawn:
    """A full page of A4 at 150 dpi."""
    lines = prose(seed, count, 82, 88)
    return Drawn("dense A4", written(lines, (1240, 1754), SERIF, 20, start=(90, 90), step=1.45), lines)


def two_columns() -> Drawn:
    left, right = prose(23, 24, 34, 38), prose(29, 24, 34, 38)
    title = "Proceedings of the Harbour Society"
    image = written([title], (1240, 1100), BOLD, 34, start=(290, 50))
    written(left, image.size, SERIF, 22, start=(80, 150), step=1.6, onto=image)
    written(right, image.size, SERIF, 22, start=(660, 150), step=1.6, onto=image)
    return Drawn("two columns", image, (title, *left, *right))


def mixed() -> Drawn:
    """A page with text of all sizes, from headline to footnote."""
    image, lines, top = Image.new("RGB", (1100, 900), "white"), [], 40  # type: ignore[var-annotated]
    for seed, (face, height, count, length) in enumerate(
        ((BOLD, 64, 1, 22), (SANS, 36, 2, 40), (SERIF, 24, 7, 62), (MONO, 18, 6, 80), (SANS, 14, 4, 100))
    ):
        part = prose(31 + seed, count, length, length + 4)
        written(part, image.size, face, height, start=(50, top), step=1.5, onto=image)
        lines += part
        top += int(count * height * 1.5) + height
    return Drawn("mixed sizes", image, tuple(lines))


PAGES: Mapping[str, Callable[[], Drawn]] = {
    "invoice": invoice,
    "13 px": small,
    "monospace": monospace,
    "blur and noise": blurred,
    "light on dark": dark,
    "5 degrees": tilted,
    "180 degrees": turned,
    "dense A4": dense,
    "two columns": two_columns,
    "mixed sizes": mixed,
}


# ------------------------------------------------------------------------------------------------ measuring


def squeezed(text: str) -> str:
    """Without white space, since the width of a drawn gap says nothing about how well letters are read."""
    return "".join(text.split())


def error_rate(read: str, lines: Sequence[str]) -> float:
    """The characters to change, insert or remove, per character of the true text."""
    truth = squeezed(" ".join(lines))
    return distance(squeezed(read), truth) / len(truth)


def distance(one: str, other: str) -> int:
    """Levenshtein's distance, row by row."""
    codes = np.array([ord(letter) for letter in other])
    ramp = np.arange(len(other) + 1)
    row = ramp
    for count, letter in enumerate(one, 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (codes != ord(letter)))
        # An insertion costs the smallest value so far plus the way from there.
        row = np.minimum.accumulate(np.concatenate([[count], best]) - ramp) + ramp
    return int(row[-1])
