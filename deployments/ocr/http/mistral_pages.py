"""Pages that were read, as Mistral's clients read them."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cluster.value import JsonObject
from deployments.ocr.http.body import Pages
from deployments.ocr.page import Block, RecognisedPage, markdown_of

#: Of pictures on a page, which are cut out as such.
PICTURES = ("figure", "chart")
#: Mistral's word for a kind of block, where it is another than ours.
BLOCK_TYPES = {"formula": "equation", "figure": "image", "chart": "image"}


class MistralBody(BaseModel):
    """Other fields are asked of other models: they are ignored."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str | None = None
    id: str | None = None
    document: JsonObject
    #: From 0.
    pages: Pages | None = None
    include_image_base64: bool = False
    image_limit: int | None = Field(default=None, ge=0)
    #: Of the shorter side, in pixels.
    image_min_size: int | None = Field(default=None, ge=0)
    #: Tables stand by themselves in this format, and the markdown refers to them.
    table_format: Literal["markdown", "html"] | None = None
    extract_header: bool = False
    extract_footer: bool = False
    #: Every paragraph with its place.
    include_blocks: bool = False
    confidence_scores_granularity: Literal["page", "word", "block"] | None = None
    #: What a language model would write about each picture, or about the document.
    bbox_annotation_format: object = None
    document_annotation_format: object = None


def mistral_page(page: RecognisedPage, body: MistralBody) -> JsonObject:
    images = {index: f"img-{order}.png" for order, index in enumerate(_pictures(page, body))}
    tables = {index: f"tbl-{order}.{_extension(body)}" for order, index in enumerate(_tables(page, body))}
    row: JsonObject = {
        "index": page.number - 1,
        "markdown": _markdown(page, body, tables),
        "images": [_image(page.blocks[index], name, body) for index, name in images.items()],
        "tables": [_table(page.blocks[index], name, body) for index, name in tables.items()],
        "hyperlinks": [],
        "header": _text_of("header", page) if body.extract_header else None,
        "footer": _text_of("footer", page) if body.extract_footer else None,
        "dimensions": {"dpi": round(page.dpi or 0), "height": page.height, "width": page.width},
    }
    if body.include_blocks:
        row["blocks"] = [
            _block(block, body, images.get(index), tables.get(index))
            for index, block in enumerate(page.blocks)
            if block.bbox is not None and (index in images or block.type not in PICTURES)
        ]
    if body.confidence_scores_granularity is not None:
        row["confidence_scores"] = _page_scores(page, row["markdown"], body)
    return row if page.error is None else {**row, "error": page.error}


def _pictures(page: RecognisedPage, body: MistralBody) -> list[int]:
    """The places of the blocks that are cut out as pictures."""
    least = body.image_min_size or 0
    places = [index for index, block in enumerate(page.blocks) if block.type in PICTURES and _is_large(block, least)]
    return places[: body.image_limit]


def _is_large(block: Block, least: int) -> bool:
    if block.bbox is None:
        return False
    left, top, right, bottom = block.bbox
    return min(right - left, bottom - top) >= least


def _tables(page: RecognisedPage, body: MistralBody) -> list[int]:
    if body.table_format is None:
        return []
    return [index for index, block in enumerate(page.blocks) if block.type == "table"]


def _extension(body: MistralBody) -> str:
    return "html" if body.table_format == "html" else "md"


def _markdown(page: RecognisedPage, body: MistralBody, tables: dict[int, str]) -> str:
    apart = {kind for kind, is_apart in (("header", body.extract_header), ("footer", body.extract_footer)) if is_apart}
    if not tables and not apart:
        return page.markdown
    parts = [
        f"[{tables[index]}]({tables[index]})" if index in tables else markdown_of(block)
        for index, block in enumerate(page.blocks)
        if block.type not in apart
    ]
    return "\n\n".join(filter(None, parts))


def _text_of(kind: str, page: RecognisedPage) -> str | None:
    return "\n".join(block.text for block in page.blocks if block.type == kind and block.text) or None


def _corners(block: Block) -> JsonObject:
    assert block.bbox is not None
    left, top, right, bottom = map(round, block.bbox)
    return {"top_left_x": left, "top_left_y": top, "bottom_right_x": right, "bottom_right_y": bottom}


def _image(block: Block, name: str, body: MistralBody) -> JsonObject:
    picture = None
    if body.include_image_base64 and block.picture is not None:
        picture = "data:image/png;base64," + base64.b64encode(block.picture).decode()
    return {"id": name, **_corners(block), "image_base64": picture, "image_annotation": None}


def _table(block: Block, name: str, body: MistralBody) -> JsonObject:
    content = markdown_of(block)
    if body.table_format == "markdown" and block.html:
        content = markdown_table(block.html)
    return {"id": name, "content": content, "format": body.table_format}


def _block(block: Block, body: MistralBody, image: str | None, table: str | None) -> JsonObject:
    row: JsonObject = {
        "type": BLOCK_TYPES.get(block.type, block.type),
        **_corners(block),
        "content": f"![{image}]({image})" if image else markdown_of(block),
    }
    if image:
        row["image_id"] = image
    if block.type == "table":
        row["table_id"] = table
    if body.confidence_scores_granularity == "block":
        scores = _scores_of([block])
        row["confidence_scores"] = _average("block", scores) if scores else None
    return row


def _scores_of(blocks: Sequence[Block]) -> list[float]:
    """Of the words where there are some, else of the lines or the blocks."""
    scores: list[float | None] = []
    for block in blocks:
        words = [word.score for line in block.lines for word in line.words]
        scores += words or [line.score for line in block.lines] or [block.score]
    return [score for score in scores if score is not None]


def _average(of: str, scores: Sequence[float]) -> JsonObject:
    return {
        f"average_{of}_confidence_score": round(sum(scores) / len(scores), 4),
        f"minimum_{of}_confidence_score": round(min(scores), 4),
    }


def _page_scores(page: RecognisedPage, markdown: str, body: MistralBody) -> JsonObject | None:
    scores = _scores_of(page.blocks)
    if not scores:
        return None
    row = _average("page", scores)
    if body.confidence_scores_granularity == "word":
        row["word_confidence_scores"] = list(_words(page, markdown))
    return row


def _words(page: RecognisedPage, markdown: str) -> Iterator[JsonObject]:
    """Each word with its place in the markdown."""
    start = 0
    for word in (word for line in page.lines for word in line.words):
        index = markdown.find(word.text, start)
        if index >= 0:
            start = index
        if word.score is not None:
            yield {"text": word.text, "confidence": round(word.score, 4), "start_index": start}
        start += len(word.text) if index >= 0 else 0


class _Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._is_cell = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows = self.rows or [[]]
            self.rows[-1].append("")
            self._is_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._is_cell = False

    def handle_data(self, data: str) -> None:
        if self._is_cell:
            self.rows[-1][-1] += data


def markdown_table(html: str) -> str:
    """The cells of a table; what spans several is in the first of them."""
    cells = _Cells()
    cells.feed(html)
    rows = [[" ".join(text.split()).replace("|", "\\|") for text in row] for row in cells.rows if row]
    width = max(map(len, rows), default=0)
    lines = [f"| {' | '.join([*row, *[''] * (width - len(row))])} |" for row in rows]
    return "\n".join([*lines[:1], "|" + " --- |" * width, *lines[1:]]) if lines else ""
