"""Blocks from the text that a model wrote about a page: markdown, tags with places, or plain lines.

Imports no library.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from typing import get_args

from deployments.ocr.page import Block, BlockKind, Box, Line, bounds, rectangle

#: Takes what a model wrote, and the width and height of the page.
AnswerParser = Callable[[str, int, int], list[Block]]

#: Models' names for kinds of blocks.
KINDS: dict[str, BlockKind] = {
    "title": "title", "sub_title": "title", "section_header": "title", "document_title": "title",
    "paragraph_title": "title", "table": "table", "otsl": "table", "equation": "formula", "formula": "formula",
    "image": "figure", "picture": "figure", "figure": "figure", "chart": "chart", "caption": "caption",
    "image_caption": "caption", "table_caption": "caption", "figure_title": "caption", "code": "code",
    "list": "list", "list_item": "list", "unordered_list": "list", "ordered_list": "list", "header": "header",
    "page_header": "header", "footer": "footer", "page_footer": "footer", "footnote": "footer",
}  # fmt: skip

_HEADING = re.compile(r"(#{1,6})\s+(.*)", re.DOTALL)
_TABLE = re.compile(r"<table\b.*?(?:</table>|\Z)", re.DOTALL | re.IGNORECASE)
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]", re.DOTALL)
_FENCED = re.compile(r"```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
_LIST = re.compile(r"(?:[-*+]|\d+[.)])\s")
_RULE = re.compile(r"\s*\|?[\s:|-]+\|?\s*")
_TAG = re.compile(r"<[^<>]*>")


def kind_of(name: str) -> BlockKind:
    plain = name.strip().lower().replace(" ", "_").replace("-", "_")
    if re.fullmatch(r"section_header_level_\d+", plain):
        return "title"
    named: BlockKind = next((kind for kind in get_args(BlockKind) if kind == plain), "text")
    return KINDS.get(plain, named)


# ------------------------------------------------------------------------------------------------ markdown


def plain(text: str, width: int, height: int) -> list[Block]:
    return [Block(text=part) for part in _paragraphs(text)]


def markdown(text: str, width: int, height: int) -> list[Block]:
    """Code, tables and formulas are cut out first, because they may contain empty lines; the rest are paragraphs."""
    return [block for part in _parts(text) for block in part]


def _parts(text: str) -> Iterator[list[Block]]:
    special = re.compile("|".join(f"({pattern.pattern})" for pattern in (_FENCED, _TABLE, _FORMULA)), re.DOTALL | re.I)
    end = 0
    for match in special.finditer(text):
        yield [_paragraph(part) for part in _paragraphs(text[end : match.start()])]
        yield [_special(match.group(0))]
        end = match.end()
    yield [_paragraph(part) for part in _paragraphs(text[end:])]


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def _special(text: str) -> Block:
    if text.startswith("```"):
        return Block("code", _FENCED.sub(r"\1", text).rstrip("\n"))
    if text.startswith("<"):
        return table(text)
    latex = text[2:-2].strip()
    return Block("formula", latex, latex=latex)


def _paragraph(text: str) -> Block:
    if (heading := _HEADING.fullmatch(text)) is not None and "\n" not in text:
        return Block("title", heading.group(2), level=len(heading.group(1)))
    rows = text.splitlines()
    if len(rows) > 1 and "|" in rows[0] and "-" in rows[1] and _RULE.fullmatch(rows[1]):
        return table(_as_html([_cells(row) for number, row in enumerate(rows) if number != 1]))
    return Block("list" if _LIST.match(text) else "text", text)


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def _as_html(rows: list[list[str]]) -> str:
    inner = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{inner}</table>"


def table(source: str) -> Block:
    """A table from its HTML; its text has a line for each row and tabs between the cells."""
    rows = re.split(r"</tr\s*>", source, flags=re.IGNORECASE)
    lines = ("\t".join(_plain_cell(cell) for cell in re.split(r"</t[dh]\s*>", row)[:-1]) for row in rows)
    return Block("table", "\n".join(line for line in lines if line), html=source)


def _plain_cell(cell: str) -> str:
    return " ".join(html.unescape(_TAG.sub(" ", cell)).split())


# ---------------------------------------------------------------------------------------- tags with places


def placed(block: Block, box: Box, width: int, height: int, grid: float) -> Block:
    """The block at its place on the page. `grid`: the model's coordinate of the right and the lower side of a page."""
    left, top, right, bottom = box
    there = bounds(
        [(left / grid * width, top / grid * height), (right / grid * width, bottom / grid * height)],
    )
    inside = max(there[0], 0.0), max(there[1], 0.0), min(there[2], width), min(there[3], height)
    return block._replace(bbox=inside, polygon=rectangle(inside))


_REFERENCE = re.compile(r"<\|ref\|>(.*?)<\|/ref\|>\s*<\|det\|>\[\[(.*?)\]\]?<\|/det\|>", re.DOTALL)


def references(text: str, width: int, height: int) -> list[Block]:
    """DeepSeek's form: the kind and place of each block, followed by its text. Text without any is markdown."""
    matches = list(_REFERENCE.finditer(text))
    if not matches:
        return markdown(text, width, height)
    ends = [*(match.start() for match in matches[1:]), len(text)]
    blocks = markdown(text[: matches[0].start()], width, height)
    for match, end in zip(matches, ends, strict=True):
        box = _numbers(match.group(2))
        inner = markdown(text[match.end() : end], width, height)
        name, kind = match.group(1), kind_of(match.group(1))
        if not inner:
            # A figure has no text, and a line of text has its text in the place of the kind.
            inner = [Block(kind, "" if kind != "text" or name.strip().lower() == "text" else name.strip())]
        if len(inner) == 1 and inner[0].type in ("text", "list"):
            inner = [inner[0]._replace(type=kind)]
        blocks += [placed(block, box, width, height, 999) for block in inner] if len(box) == 4 else inner
    return blocks


def _numbers(text: str) -> Box:
    return tuple(float(digits) for digits in re.findall(r"\d+(?:\.\d+)?", text)[:4])  # type: ignore[return-value]


_SPOTTED = re.compile(r"(.*?)\((\d+),\s*(\d+)\),?\s*\((\d+),\s*(\d+)\)", re.DOTALL)


def spotted(text: str, width: int, height: int) -> list[Block]:
    """Hunyuan's form: each line of text, followed by two of its corners. Text without any is markdown."""
    matches = list(_SPOTTED.finditer(text))
    if not matches:
        return markdown(text, width, height)
    blocks = []
    for match in matches:
        left, top, right, bottom = (float(digits) for digits in match.groups()[1:])
        block = placed(Block(text=match.group(1).strip()), (left, top, right, bottom), width, height, 1000)
        blocks.append(_of_one_line(block))
    return blocks


_REGION = re.compile(r"(.+?)((?:<loc_\d+>){8}|(?:<loc_\d+>){4})", re.DOTALL)


def regions(text: str, width: int, height: int) -> list[Block]:
    """Florence's form: each line of text, followed by its four corners."""
    matches = list(_REGION.finditer(text))
    if not matches:
        return plain(_TAG.sub("", text), width, height)
    blocks = []
    for match in matches:
        numbers = [int(digits) for digits in re.findall(r"\d+", match.group(2))]
        box = bounds(zip(numbers[::2], numbers[1::2], strict=True))
        words = _TAG.sub("", match.group(1)).strip()
        blocks.append(_of_one_line(placed(Block(text=words), box, width, height, 999)))
    return blocks


def _of_one_line(block: Block) -> Block:
    assert block.bbox is not None and block.polygon is not None
    return block._replace(lines=(Line(block.text, block.bbox, block.polygon),))


_DOCTAG = re.compile(r"<([a-z_]+(?:_level_\d+)?)>\s*((?:<loc_\d+>){4})(.*?)</\1>", re.DOTALL)
_DOCTAG_GRID = 500


def doctags(text: str, width: int, height: int) -> list[Block]:
    blocks = []
    for match in _DOCTAG.finditer(text):
        name, where, inner = match.groups()
        left, top, right, bottom = (float(digits) for digits in re.findall(r"\d+", where))
        block = _tagged(name, inner)
        blocks.append(placed(block, (left, top, right, bottom), width, height, _DOCTAG_GRID))
    return blocks or plain(_TAG.sub("\n", text), width, height)


def _tagged(name: str, inner: str) -> Block:
    kind = kind_of(name)
    if name in ("otsl", "chart") or kind == "table":
        return table(_as_html(_otsl_rows(inner)))._replace(type=kind)
    words = html.unescape(_TAG.sub("", inner)).strip()
    if kind == "formula":
        return Block("formula", words, latex=words)
    level = re.search(r"_level_(\d+)", name)
    return Block(kind, words, level=1 + int(level.group(1)) if level else 1)


def _otsl_rows(inner: str) -> list[list[str]]:
    """Each cell begins with a tag of its kind. A cell that is merged into one beside or above it is empty."""
    rows = [re.split(r"<(?:[fe]cel|[clsr]hed|srow|rhed|ched|lcel|ucel|xcel)>", row)[1:] for row in inner.split("<nl>")]
    return [[html.unescape(_TAG.sub("", cell)).strip() for cell in row] for row in rows if row]


_FIELD = re.compile(r"<s_([^<>]+)>(.*?)</s_\1>", re.DOTALL)


def fields(text: str, width: int, height: int) -> list[Block]:
    """Donut's form: nested fields. Each innermost one becomes a line `name: text`."""
    named = [(name, _TAG.sub(" ", inner)) for name, inner in _innermost(text)]
    if not named:
        return plain(_TAG.sub(" ", text), width, height)
    return [Block(text="\n".join(f"{name}: {' '.join(words.split())}" for name, words in named))]


def _innermost(text: str) -> Iterator[tuple[str, str]]:
    for match in _FIELD.finditer(text):
        inner = list(_innermost(match.group(2)))
        yield from inner or [(match.group(1), match.group(2))]
