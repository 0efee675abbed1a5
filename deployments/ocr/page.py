"""What was read on one page, in the same shape for every engine. Imports no library.

Coordinates are pixels of the page as it was sent, with the origin at the upper left, whichever way the text runs.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Sequence
from typing import Literal, NamedTuple, TypedDict, Unpack

from cluster.value import JsonObject
from deployments.ocr.requests import USUAL_FEATURES

#: Left, top, right, bottom.
Box = tuple[float, float, float, float]
#: The corners in reading direction, beginning at the upper left corner of the text as one reads it.
Polygon = tuple[tuple[float, float], ...]

BlockKind = Literal[
    "text", "title", "list", "table", "formula", "figure", "chart", "caption", "code", "header", "footer"
]


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
    """A paragraph, a table and so on. It has no box where a model wrote it without saying where it stands."""

    type: BlockKind = "text"
    text: str = ""
    bbox: Box | None = None
    polygon: Polygon | None = None
    html: str | None = None
    latex: str | None = None
    score: float | None = None
    lines: tuple[Line, ...] = ()
    #: The block cut out of the page, as a PNG file.
    picture: bytes | None = None
    #: Of a title, as in HTML: 1 for the largest.
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
    #: Page number in the document, from 1.
    number: int = 1
    dpi: float | None = None
    #: Degrees by which the page, as it was sent, is rotated clockwise from upright.
    angle: float = 0.0
    usage: Usage = Usage()
    #: The model was cut off by max_new_tokens or max_length before it was done.
    truncated: bool = False
    #: The model repeated itself endlessly, and its text was cut where that began.
    repetition: bool = False
    #: Why nothing was read.
    error: str | None = None

    @property
    def lines(self) -> list[Line]:
        return [line for block in self.blocks for line in block.lines]

    def to_dict(self, features: Collection[str] = USUAL_FEATURES) -> JsonObject:
        body: JsonObject = {
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
            body["truncated"] = True
        if self.repetition:
            body["repetition"] = True
        if self.error is not None:
            body["error"] = self.error
        return body


class PageFacts(TypedDict, total=False):
    """Fields of a page besides its size and its content."""

    number: int
    dpi: float | None
    angle: float
    usage: Usage
    truncated: bool
    repetition: bool


def page_of(width: int, height: int, blocks: Sequence[Block], **more: Unpack[PageFacts]) -> RecognisedPage:
    """A page with the text and the markdown of its blocks."""
    text = "\n\n".join(block.text for block in blocks if block.text)
    markdown = "\n\n".join(filter(None, map(markdown_of, blocks)))
    return RecognisedPage(width, height, tuple(blocks), text, markdown, **more)


def unread(number: int, error: str, width: int = 0, height: int = 0) -> RecognisedPage:
    """A page that could not be read, in a document with other pages that could."""
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


def _block(block: Block, features: Collection[str]) -> JsonObject:
    body: JsonObject = {"type": block.type, "text": block.text, **_placed(block, features)}
    if block.type == "title":
        body["level"] = block.level
    if block.html is not None and "tables" in features:
        body["html"] = block.html
    if block.latex is not None and "formulas" in features:
        body["latex"] = block.latex
    if block.picture is not None and "figures" in features:
        body["image"] = "data:image/png;base64," + base64.b64encode(block.picture).decode()
    body["lines"] = [_line(line, features) for line in block.lines]
    return body


def _line(line: Line, features: Collection[str]) -> JsonObject:
    body = {"text": line.text, **_placed(line, features)}
    if "words" in features:
        body["words"] = [{"text": word.text, **_placed(word, features)} for word in line.words]
    return body


def _placed(part: Block | Line | Word, features: Collection[str]) -> JsonObject:
    body: JsonObject = {}
    if "boxes" in features:
        body["bbox"] = None if part.bbox is None else [_pixels(side) for side in part.bbox]
        body["polygon"] = None if part.polygon is None else [[_pixels(x), _pixels(y)] for x, y in part.polygon]
    if "confidence" in features:
        body["score"] = None if part.score is None else round(part.score, 4)
    return body


def _pixels(value: float) -> float:
    return round(float(value), 1)
