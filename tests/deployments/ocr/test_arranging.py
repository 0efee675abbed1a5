from __future__ import annotations

from deployments.ocr.arranging import TextBox, paragraphs


def read(pieces: list[TextBox]) -> list[list[list[int]]]:
    return [[[piece.number for piece in row] for row in paragraph] for paragraph in paragraphs(pieces)]


def line(number: int, left: float, top: float, width: float, height: float = 20) -> TextBox:
    return TextBox(number, left, top, left + width, top + height)


def test_a_page_without_text_has_no_paragraphs() -> None:
    assert read([]) == []


def test_what_stands_side_by_side_is_one_row_from_left_to_right() -> None:
    assert read([line(0, 300, 3, 80), line(1, 0, 0, 100), line(2, 0, 30, 100)]) == [[[1, 0], [2]]]


def test_columns_are_read_one_after_the_other() -> None:
    left = [line(number, 0, 30 * number, 300) for number in range(5)]
    right = [line(10 + number, 340, 30 * number + 12, 300) for number in range(5)]
    assert read([*right, *left]) == [[[0], [1], [2], [3], [4]], [[10], [11], [12], [13], [14]]]


def test_three_columns_under_a_headline_and_above_a_footnote() -> None:
    columns = [line(10 * c + n, 250 * c, 100 + 30 * n, 220) for c in range(3) for n in range(4)]
    found = read([line(90, 100, 10, 500, 40), *columns, line(91, 0, 260, 700)])
    assert [row for paragraph in found for row in paragraph] == [
        [90], [0], [1], [2], [3], [10], [11], [12], [13], [20], [21], [22], [23], [91],
    ]  # fmt: skip


def test_a_table_is_read_row_by_row() -> None:
    cells = [
        line(10 * row + column, 200 * column, 30 * row, 60 + 10 * column) for row in range(5) for column in (0, 1, 2)
    ]
    assert read(cells) == [[[10 * row + column for column in (0, 1, 2)] for row in range(5)]]


def test_a_gap_and_a_change_of_size_begin_a_paragraph() -> None:
    body = [line(number, 0, 30 * number, 300) for number in range(4)]
    assert read([*body, line(4, 0, 190, 300), line(5, 0, 220, 300)]) == [[[0], [1], [2], [3]], [[4], [5]]]
    assert read([line(9, 0, -40, 300, 34), *body]) == [[[9]], [[0], [1], [2], [3]]]
