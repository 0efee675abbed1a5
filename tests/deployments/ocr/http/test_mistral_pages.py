from __future__ import annotations

from typing import Any

import pytest

from cluster import errors
from deployments.ocr.http.mistral import refuse_annotations
from deployments.ocr.http.mistral_pages import MistralBody, markdown_table, mistral_page
from deployments.ocr.page import Block, Line, RecognisedPage, Word, page_of, rectangle

BOX = (10.0, 20.0, 110.4, 60.0)
TABLE = "<table><tr><th>a|b</th><th>c</th></tr><tr><td>1\n 2</td></tr></table>"


def word(text: str, score: float) -> Word:
    return Word(text, BOX, rectangle(BOX), score)


def page() -> RecognisedPage:
    line = Line("one two", BOX, rectangle(BOX), 0.8, (word("one", 0.9), word("two", 0.7)))
    blocks = [
        Block("header", "Top", BOX),
        Block("title", "Tale", BOX),
        Block("text", "one two", BOX, lines=(line,)),
        Block("table", "a|b c 1 2", BOX, html=TABLE, score=0.5),
        Block("figure", "", BOX, picture=b"png"),
        Block("formula", "x", BOX, latex="x^2"),
        Block("text", "said without a place"),
        Block("footer", "7", BOX),
    ]
    return page_of(200, 300, blocks, number=3, dpi=200.0)


def told(**fields: Any) -> dict[str, Any]:
    return mistral_page(page(), MistralBody(document={}, **fields))


def test_what_is_not_asked_for_is_left_out() -> None:
    row = told()
    assert row["index"] == 2 and row["markdown"] == page().markdown and row["tables"] == []
    assert row["dimensions"] == {"dpi": 200, "height": 300, "width": 200}
    assert row["header"] is row["footer"] is None and "blocks" not in row and "confidence_scores" not in row
    (image,) = row["images"]
    assert (image["id"], image["bottom_right_x"], image["image_base64"]) == ("img-0.png", 110, None)


def test_pictures_come_as_such_and_small_ones_not() -> None:
    assert told(include_image_base64=True)["images"][0]["image_base64"] == "data:image/png;base64,cG5n"
    assert told(image_min_size=41)["images"] == told(image_limit=0)["images"] == []


@pytest.mark.parametrize(
    ("format", "name", "content"),
    [("html", "tbl-0.html", TABLE), ("markdown", "tbl-0.md", "| a\\|b | c |\n| --- | --- |\n| 1 2 |  |")],
)
def test_tables_stand_by_themselves(format: str, name: str, content: str) -> None:
    row = told(table_format=format, include_blocks=True)
    assert row["tables"] == [{"id": name, "content": content, "format": format}]
    assert f"\n\n[{name}]({name})\n\n" in row["markdown"] and "<table>" not in row["markdown"]
    assert [block["table_id"] for block in row["blocks"] if block["type"] == "table"] == [name]


def test_headers_and_footers_stand_apart_when_asked() -> None:
    row = told(extract_header=True, extract_footer=True)
    assert (row["header"], row["footer"]) == ("Top", "7")
    assert row["markdown"].startswith("# Tale") and not row["markdown"].endswith("7")
    assert told(extract_header=True)["markdown"].endswith("7")


def test_blocks_have_mistrals_names_and_a_place() -> None:
    blocks = told(include_blocks=True)["blocks"]
    assert [block["type"] for block in blocks] == ["header", "title", "text", "table", "image", "equation", "footer"]
    assert {(block["top_left_x"], block["bottom_right_y"]) for block in blocks} == {(10, 60)}
    assert blocks[4]["image_id"] == "img-0.png" and blocks[1]["content"] == "# Tale"


def test_scores_are_told_as_finely_as_asked() -> None:
    of_page = told(confidence_scores_granularity="page")["confidence_scores"]
    assert of_page == {"average_page_confidence_score": 0.7, "minimum_page_confidence_score": 0.5}
    words = told(confidence_scores_granularity="word")["confidence_scores"]["word_confidence_scores"]
    markdown = page().markdown
    assert [(said["text"], said["confidence"]) for said in words] == [("one", 0.9), ("two", 0.7)]
    assert all(markdown[said["start_index"] :].startswith(said["text"]) for said in words)
    by_block = told(confidence_scores_granularity="block", include_blocks=True)["blocks"]
    assert by_block[2]["confidence_scores"]["minimum_block_confidence_score"] == 0.7
    assert by_block[1]["confidence_scores"] is None


def test_a_page_without_scores_has_none() -> None:
    bare = page_of(1, 1, [Block("text", "a")])
    assert (
        mistral_page(bare, MistralBody(document={}, confidence_scores_granularity="page"))["confidence_scores"] is None
    )


def test_what_is_no_table_is_empty() -> None:
    assert markdown_table("<p>x</p>") == "" and markdown_table("<td>a</td>") == "| a |\n| --- |"


@pytest.mark.parametrize("field", ["bbox_annotation_format", "document_annotation_format"])
def test_an_annotation_is_refused_with_what_to_do_instead(field: str) -> None:
    document = {"type": "document_url", "document_url": "data:,"}
    refuse_annotations(MistralBody(document=document, **{field: None}))
    with pytest.raises(errors.BadRequest, match=f"{field} asks for an annotation, .*: leave it out") as caught:
        refuse_annotations(MistralBody(document=document, **{field: {"type": "json_schema", "json_schema": {}}}))
    assert caught.value.status == 400 and caught.value.param == field
