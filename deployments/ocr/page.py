"""What was read on one page, in the same shape whichever engine read it. Knows of no library.

Coordinates are pixels of the page as it was sent, the origin at its upper left, whichever way the text runs.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from deployments.ocr.requests import USUAL_FEATURES

#: Left, top, right, bottom.
Box = tuple[float, float, float, float]
#: Its corners in reading direction: the first is where the text begins, at its upper side.
Polygon = tuple[tuple[float, float], ...]

Kind = Literal["text", "title", "list", "table", "formula", "figure", "chart", "caption", "code", "header", "footer"]


class Word(NamedTuple):
    text: str
    bbox: Box
    polygon: Polygon
    score: float | None = None


class Line(NamedTuple):
    text: str
    bbox: Box
    polygon: Polygon
    score: float | None = None
    words: tuple[Word, ...] = ()


class Block(NamedTuple):
    """A paragraph, a table, ...; one that a model wrote without saying where it stands has no box."""

    type: Kind = "text"
    text: str = ""
    bbox: Box | None = None
    polygon: Polygon | None = None
    html: str | None = None
    latex: str | None = None
    score: float | None = None
    lines: tuple[Line, ...] = ()
    #: The block cut out of the page, as PNG.
    picture: bytes | None = None
    #: Of a title: 1 for the largest.
    level: int = 1


class Usage(NamedTuple):
    pages: int = 1
    prompt_tokens: int = 0
    output_tokens: int = 0


class RecognisedPage(NamedTuple):
    width: int
    height: int
    blocks: tuple[Block, ...] = ()
    text: str = ""
    markdown: str = ""
    #: Its place in the document, from 1.
    number: int = 1
    dpi: float | None = None
    #: Degrees by which the page as sent is turned clockwise against one that can be read.
    angle: float = 0.0
    usage: Usage = Usage()
    #: The model was cut off before it was done: by max_new_tokens or max_length.
    truncated: bool = False
    #: The model repeated itself without end and was cut off where that began.
    repetition: bool = False
    #: Why nothing was read.
    error: str | None = None

    @property
    def lines(self) -> list[Line]:
        return [line for block in self.blocks for line in block.lines]

    def to_dict(self, features: Collection[str] = USUAL_FEATURES) -> dict[str, Any]:
        told: dict[str, Any] = {
            "page": self.number,
            "width": self.width,
            "height": self.height,
            "dpi": self.dpi,
            "angle": self.angle,
            "blocks": [_block(block, features) for block in self.blocks],
            "markdown": self.markdown,
            "text": self.text,
            "usage": self.usage._asdict(),
        }
        if self.truncated:
            told["truncated"] = True
        if self.repetition:
            told["repetition"] = True
        if self.error is not None:
            told["error"] = self.error
        return told


def page_of(width: int, height: int, blocks: Sequence[Block], **more: Any) -> RecognisedPage:
    """A page whose text and markdown are those of its blocks."""
    text = "\n\n".join(block.text for block in blocks if block.text)
    markdown = "\n\n".join(filter(None, map(markdown_of, blocks)))
    return RecognisedPage(width, height, tuple(blocks), text, markdown, **more)


def unread(number: int, error: str, width: int = 0, height: int = 0) -> RecognisedPage:
    """A page that could not be read, in a document whose others could."""
    return RecognisedPage(width, height, number=number, error=error)


def markdown_of(block: Block) -> str:
    if block.type == "title":
        return f"{'#' * block.level} {' '.join(block.text.split())}"
    if block.type == "table" and block.html:
        return block.html
    if block.type == "formula":
        return f"$$\n{block.latex or block.text}\n$$"
    if block.type == "code":
        return f"```\n{block.text}\n```"
    return block.text


def bounds(points: Iterable[tuple[float, float]]) -> Box:
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def rectangle(box: Box) -> Polygon:
    left, top, right, bottom = box
    return (left, top), (right, top), (right, bottom), (left, bottom)


def _block(block: Block, features: Collection[str]) -> dict[str, Any]:
    told: dict[str, Any] = {"type": block.type, "text": block.text, **_placed(block, features)}
    if block.type == "title":
        told["level"] = block.level
    if block.html is not None and "tables" in features:
        told["html"] = block.html
    if block.latex is not None and "formulas" in features:
        told["latex"] = block.latex
    if block.picture is not None and "figures" in features:
        told["image"] = "data:image/png;base64," + base64.b64encode(block.picture).decode()
    told["lines"] = [_line(line, features) for line in block.lines]
    return told


def _line(line: Line, features: Collection[str]) -> dict[str, Any]:
    told = {"text": line.text, **_placed(line, features)}
    if "words" in features:
        told["words"] = [{"text": word.text, **_placed(word, features)} for word in line.words]
    return told


def _placed(part: Block | Line | Word, features: Collection[str]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if "boxes" in features:
        told["bbox"] = None if part.bbox is None else [_pixels(one) for one in part.bbox]
        told["polygon"] = None if part.polygon is None else [[_pixels(x), _pixels(y)] for x, y in part.polygon]
    if "confidence" in features:
        told["score"] = None if part.score is None else round(part.score, 4)
    return told


def _pixels(value: float) -> float:
    return round(float(value), 1)
