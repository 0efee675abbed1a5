"""Writes recognised pages as plain text, Markdown, HTML, hOCR, TSV or JSON. It needs no library for that."""

from __future__ import annotations

import html as escaping
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from html.parser import HTMLParser
from typing import Any

from deployments.ocr.page import Block, Box, Line, RecognisedPage, Word
from deployments.ocr.requests import USUAL_FEATURES

#: The tags that are kept of a table that a model wrote. Of everything else in it only the text is kept.
TABLE_TAGS = frozenset("table caption thead tbody tfoot tr th td br b i strong em sub sup".split())
SPANS = ("rowspan", "colspan")
MOST_SPAN = 1000

TSV_COLUMNS = (
    "level", "page_num", "block_num", "par_num", "line_num", "word_num", "left", "top", "width", "height", "conf",
    "text",
)  # fmt: skip


def text(pages: Sequence[RecognisedPage]) -> str:
    return "\n\n".join(page.text for page in pages if page.text)


def markdown(pages: Sequence[RecognisedPage]) -> str:
    return "\n\n".join(page.markdown for page in pages if page.markdown)


def as_dict(pages: Sequence[RecognisedPage], features: Collection[str] = USUAL_FEATURES) -> dict[str, Any]:
    return {
        "pages": [page.to_dict(features) for page in pages],
        "markdown": markdown(pages),
        "text": text(pages),
        "usage": usage(pages),
    }


def usage(pages: Sequence[RecognisedPage]) -> dict[str, int]:
    return {
        name: sum(getattr(page.usage, name) for page in pages) for name in ("pages", "prompt_tokens", "output_tokens")
    }


# --------------------------------------------------------------------------------------------------- HTML


def html(pages: Sequence[RecognisedPage]) -> str:
    body = "\n".join(_section(page) for page in pages)
    head = '<!DOCTYPE html>\n<html>\n<head><meta charset="utf-8"><title>OCR</title></head>'
    return f"{head}\n<body>\n{body}\n</body>\n</html>\n"


def _section(page: RecognisedPage) -> str:
    parts = [_html_of(block) for block in page.blocks]
    if page.error is not None:
        parts.append(f'<p class="error">{_escaped(page.error)}</p>')
    return f'<section class="page" id="page_{page.number}">\n' + "\n".join(parts) + "\n</section>"


def _html_of(block: Block) -> str:
    if block.type == "title":
        level = min(max(block.level, 1), 6)
        return f"<h{level}>{_escaped(block.text)}</h{level}>"
    if block.type == "table" and block.html:
        return safe_table(block.html)
    if block.type == "formula":
        return f'<p class="formula">\\[{_escaped(block.latex or block.text)}\\]</p>'
    if block.type == "code":
        return f"<pre>{_escaped(block.text)}</pre>"
    return f'<p class="{block.type}">' + _escaped(block.text).replace("\n", "<br>\n") + "</p>"


def safe_table(source: str) -> str:
    """A table as a model wrote it, without anything that a browser would run."""
    kept = _Kept()
    kept.feed(source)
    kept.close()
    return "".join(kept.parts)


class _Kept(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in TABLE_TAGS:
            return
        spans = (
            f' {name}="{min(int(value), MOST_SPAN)}"'
            for name, value in attrs
            if name in SPANS and value is not None and value.isascii() and value.isdigit()
        )
        self.parts.append(f"<{tag}{''.join(spans)}>")

    def handle_endtag(self, tag: str) -> None:
        if tag in TABLE_TAGS and tag != "br":
            self.parts.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        self.parts.append(_escaped(data))


# --------------------------------------------------------------------------------------------------- hOCR


def hocr(pages: Sequence[RecognisedPage]) -> str:
    body = "\n".join(_hocr_page(page) for page in pages)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN" '
        '"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">\n'
        '<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">\n<head>\n<title></title>\n'
        '<meta http-equiv="Content-Type" content="text/html;charset=utf-8"/>\n'
        '<meta name="ocr-capabilities" content="ocr_page ocr_carea ocr_par ocr_line ocrx_word"/>\n'
        f"</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _hocr_page(page: RecognisedPage) -> str:
    n = page.number
    parts = [f"<div class='ocr_page' id='page_{n}' title='bbox 0 0 {page.width} {page.height}; ppageno {n - 1}'>"]
    for b, block in enumerate(page.blocks, 1):
        title = _hocr_box(block.bbox or _whole(page))
        parts.append(f"<div class='ocr_carea' id='block_{n}_{b}' title='{title}'>")
        parts.append(f"<p class='ocr_par' id='par_{n}_{b}' title='{title}'>")
        parts += [_hocr_line(line, f"{n}_{b}_{i}") for i, line in enumerate(block.lines, 1)]
        if not block.lines:
            parts.append(_escaped(block.text))
        parts.append("</p>\n</div>")
    return "\n".join((*parts, "</div>"))


def _hocr_line(line: Line, id: str) -> str:
    words = (
        f"<span class='ocrx_word' id='word_{id}_{i}' title='{_hocr_box(word.bbox)}; x_wconf {_percent(word.score)}'>"
        f"{_escaped(word.text)}</span>"
        for i, word in enumerate(_words(line), 1)
    )
    return f"<span class='ocr_line' id='line_{id}' title='{_hocr_box(line.bbox)}'>{' '.join(words)}</span>"


def _hocr_box(box: Box) -> str:
    left, top, right, bottom = map(round, box)
    return f"bbox {left} {top} {right} {bottom}"


# ---------------------------------------------------------------------------------------------------- TSV


def tsv(pages: Sequence[RecognisedPage]) -> str:
    """Has tesseract's columns, because other programs read them. Levels are page, block, paragraph, line and word."""
    rows: list[tuple[Any, ...]] = [TSV_COLUMNS]
    for page in pages:
        rows += _tsv_rows(page)
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def _tsv_rows(page: RecognisedPage) -> Iterator[tuple[Any, ...]]:
    n = page.number
    yield (1, n, 0, 0, 0, 0, *_place(_whole(page)), -1, "")
    for b, block in enumerate(page.blocks, 1):
        box = _place(block.bbox or _whole(page))
        yield (2, n, b, 0, 0, 0, *box, -1, "")
        yield (3, n, b, 1, 0, 0, *box, -1, "")
        if not block.lines:
            yield (5, n, b, 1, 1, 1, *box, _percent(block.score), _in_one_cell(block.text))
        for i, line in enumerate(block.lines, 1):
            yield (4, n, b, 1, i, 0, *_place(line.bbox), -1, "")
            for w, word in enumerate(_words(line), 1):
                yield (5, n, b, 1, i, w, *_place(word.bbox), _percent(word.score), _in_one_cell(word.text))


def _words(line: Line) -> tuple[Word, ...]:
    return line.words or (Word(line.text, line.bbox, line.polygon, line.score),)


def _whole(page: RecognisedPage) -> Box:
    return 0, 0, page.width, page.height


def _place(box: Box) -> tuple[int, int, int, int]:
    left, top, right, bottom = map(round, box)
    return left, top, right - left, bottom - top


def _percent(score: float | None) -> int:
    return -1 if score is None else round(100 * score)


def _in_one_cell(text: str) -> str:
    return " ".join(text.split())


def _escaped(text: str) -> str:
    """For HTML and XML. Control characters, which XML forbids and models sometimes write, are left out."""
    return escaping.escape("".join(char for char in text if char >= " " or char in "\t\n"), quote=True)


#: The formats that are one string, by the names that requests use.
WRITERS: Mapping[str, Callable[[Sequence[RecognisedPage]], str]] = {
    "text": text,
    "markdown": markdown,
    "html": html,
    "hocr": hocr,
    "tsv": tsv,
}
