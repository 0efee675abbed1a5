from __future__ import annotations

import pickle
from xml.etree import ElementTree

from deployments.ocr import formats
from deployments.ocr.page import Block, Line, RecognisedPage, Word, page_of, rectangle, unread

BOX = (10.0, 20.0, 110.4, 40.0)
HALF = (10.0, 20.0, 60.0, 40.0)
REST = (62.0, 20.0, 110.0, 40.0)
WORDS = (Word("a<b", HALF, rectangle(HALF), 0.99), Word("done", REST, rectangle(REST), 0.5))
LINE = Line("a<b done", BOX, rectangle(BOX), 0.9, WORDS)
TABLE = '<table><tr><td onclick="x()" colspan="2">1 &amp; 2</td></tr></table><script>alert(1)</script>'


def page() -> RecognisedPage:
    return page_of(
        200,
        100,
        [
            Block("title", "Report\n2024", BOX, rectangle(BOX), level=2),
            Block("text", LINE.text, BOX, rectangle(BOX), score=0.9, lines=(LINE,)),
            Block("table", "1 & 2", html=TABLE),
            Block("formula", "E=mc^2", latex="E=mc^2"),
        ],
        number=3,
    )


def test_text_and_markdown_of_a_page_are_those_of_its_blocks() -> None:
    assert page().text == "Report\n2024\n\na<b done\n\n1 & 2\n\nE=mc^2"
    assert page().markdown == f"## Report 2024\n\na<b done\n\n{TABLE}\n\n$$\nE=mc^2\n$$"


def test_pages_are_joined_by_an_empty_line_and_those_that_failed_have_no_text() -> None:
    pages = [page_of(1, 1, [Block(text="one")]), unread(2, "it is broken"), page_of(1, 1, [Block(text="two")])]
    assert formats.text(pages) == "one\n\ntwo"
    told = formats.as_dict(pages)
    assert [one.get("error") for one in told["pages"]] == [None, "it is broken", None]
    assert told["usage"] == {"pages": 3, "prompt_tokens": 0, "output_tokens": 0}


def test_a_page_as_a_dict_has_what_was_asked_for_and_no_more() -> None:
    whole = page().to_dict()
    assert whole["page"] == 3 and whole["width"] == 200 and whole["angle"] == 0.0
    assert whole["blocks"][1]["bbox"] == [10.0, 20.0, 110.4, 40.0]
    assert [word["text"] for word in whole["blocks"][1]["lines"][0]["words"]] == ["a<b", "done"]
    assert whole["blocks"][2]["html"] == TABLE and whole["blocks"][3]["latex"] == "E=mc^2"
    bare = page().to_dict(features=())
    assert bare["blocks"][1] == {"type": "text", "text": "a<b done", "lines": [{"text": "a<b done"}]}


def test_a_page_survives_the_way_between_processes() -> None:
    assert pickle.loads(pickle.dumps(page())) == page()


def test_html_has_nothing_in_it_that_a_browser_would_run() -> None:
    written = formats.html([page()])
    assert "<h2>Report\n2024</h2>" in written and "a&lt;b done" in written
    assert '<td colspan="2">1 &amp; 2</td>' in written
    assert "onclick" not in written and "<script" not in written


def test_hocr_is_xml_with_a_box_and_a_score_for_each_word() -> None:
    written = formats.hocr([page()])
    tree = ElementTree.fromstring(written.partition("?>")[2].partition(">")[2])
    found = [one for one in tree.iter() if one.get("class") == "ocrx_word"]
    assert [(one.text, one.get("title")) for one in found] == [
        ("a<b", "bbox 10 20 60 40; x_wconf 99"),
        ("done", "bbox 62 20 110 40; x_wconf 50"),
    ]


def test_hocr_takes_what_no_xml_may_have() -> None:
    written = formats.hocr([page_of(9, 9, [Block(text="a\x00\x08b")])])
    ElementTree.fromstring(written.partition("?>")[2].partition(">")[2])


def test_tsv_has_a_row_for_each_word_and_none_breaks_it() -> None:
    rows = [line.split("\t") for line in formats.tsv([page()]).splitlines()]
    assert rows[0] == list(formats.TSV_COLUMNS) and all(len(row) == 12 for row in rows)
    words = [row for row in rows[1:] if row[0] == "5"]
    assert ["62", "20", "48", "20", "50", "done"] in [row[6:] for row in words]
    assert words[0][-1] == "Report 2024"
