from __future__ import annotations

from collections.abc import Callable

import pytest

from deployments.ocr.documents import answers
from deployments.ocr.page import Block

SIZE = (1000, 2000)


def kinds(blocks: list[Block]) -> list[tuple[str, str]]:
    return [(block.type, block.text) for block in blocks]


def test_markdown_becomes_blocks_of_its_kinds() -> None:
    written = (
        "# Report\n\nFirst words\nof two lines.\n\n## Part\n- one\n- two\n\n$$E=mc^2$$\n\n"
        "```python\nprint(1)\n\nprint(2)\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nend"
    )
    blocks = answers.markdown(written, *SIZE)
    assert [block.type for block in blocks] == ["title", "text", "text", "formula", "code", "table", "text"]
    assert (blocks[0].level, blocks[3].latex, blocks[4].text) == (1, "E=mc^2", "print(1)\n\nprint(2)")
    assert blocks[5].text == "a\tb\n1\t2" and (blocks[5].html or "").startswith("<table><tr><td>a</td>")


def test_a_table_has_its_text_even_where_it_was_cut_off() -> None:
    (block,) = answers.markdown("<table><tr><td>a &amp; b</td><td> 2 </td></tr><tr><td>3</td><td>4", *SIZE)
    assert block.type == "table" and block.text == "a & b\t2\n3"


def test_places_that_count_to_999_become_pixels() -> None:
    written = (
        "<|ref|>title<|/ref|><|det|>[[0, 0, 999, 99.9]]<|/det|>\n# The head\n\n"
        "<|ref|>text<|/ref|><|det|>[[100, 500, 300, 600]]<|/det|>\nWords.\n\n"
        "<|ref|>image<|/ref|><|det|>[[500, 500, 2000, 700]]<|/det|>\n"
    )
    title, text, image = answers.references(written, *SIZE)
    assert (title.type, title.text) == ("title", "The head") and title.bbox == pytest.approx((0, 0, 1000, 200))
    assert (text.type, text.text) == ("text", "Words.") and text.bbox == pytest.approx((100, 1001, 300, 1201), abs=1)
    assert image.type == "figure" and image.bbox is not None and image.bbox[2] == 1000


def test_an_answer_without_places_is_markdown() -> None:
    assert kinds(answers.references("# A\n\nb", *SIZE)) == [("title", "A"), ("text", "b")]
    assert kinds(answers.spotted("# A\n\nb", *SIZE)) == [("title", "A"), ("text", "b")]


def test_lines_with_two_corners_behind_them() -> None:
    one, two = answers.spotted("Total (net)(100,50),(300,100)\nEUR 5(0,0),(10,10)", *SIZE)
    assert one.text == "Total (net)" and one.bbox == (100, 100, 300, 200) and one.lines[0].text == "Total (net)"
    assert two.text == "EUR 5"


def test_lines_with_four_corners_behind_them() -> None:
    corners = "".join(f"<loc_{value}>" for value in (0, 0, 999, 0, 999, 99, 0, 99))
    (line,) = answers.regions(f"</s><s>hello world{corners}</s>", *SIZE)
    assert line.text == "hello world" and line.bbox == pytest.approx((0, 0, 1000, 198.2), abs=0.1)


def test_tags_of_docling_with_a_table_and_a_heading() -> None:
    where = "<loc_0><loc_0><loc_250><loc_500>"
    written = (
        f"<doctag><section_header_level_1>{where}Results</section_header_level_1>\n<text>{where}a &lt; b</text>\n"
        f"<otsl>{where}<ched>n<ched>m<nl><fcel>1<ecel><nl></otsl>\n<formula>{where}x^2</formula></doctag>"
    )
    title, text, table, formula = answers.doctags(written, *SIZE)
    assert (title.type, title.level, title.bbox) == ("title", 2, (0, 0, 500, 2000))
    assert text.text == "a < b" and formula.latex == "x^2"
    assert table.html == "<table><tr><td>n</td><td>m</td></tr><tr><td>1</td><td></td></tr></table>"


def test_fields_of_a_receipt_are_a_line_each() -> None:
    written = "<s_menu><s_nm>Tea</s_nm><s_price>3.50</s_price></s_menu><s_total>3.50</s_total>"
    assert kinds(answers.fields(written, *SIZE)) == [("text", "nm: Tea\nprice: 3.50\ntotal: 3.50")]


@pytest.mark.parametrize("read", [answers.markdown, answers.references, answers.spotted, answers.doctags])
def test_nothing_written_is_nothing_read(read: Callable[..., object]) -> None:
    assert read("", *SIZE) == []
