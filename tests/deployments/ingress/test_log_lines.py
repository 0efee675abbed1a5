"""Which lines of a log are new, and who is told of them."""

from __future__ import annotations

from deployments.ingress.log_lines import TAIL, LogBook, clean, later

FIRST, SECOND = "worker:m:1:0-a", "worker:m:1:1-b"


def numbered(first: int, last: int) -> list[str]:
    return [f"line {number}" for number in range(first, last)]


def test_only_what_was_written_behind_is_new() -> None:
    assert later([], ["a"]) == ["a"]
    assert later(["a", "b"], ["a", "b"]) == []
    assert later(["a", "b"], ["a", "b", "c"]) == ["c"]
    assert later(["a", "b", "a"], ["a", "b", "a", "d"]) == ["d"]
    assert later(["a", "a"], ["a", "a", "a"]) == ["a"]
    assert later(numbered(0, 100), numbered(40, 140)) == numbered(100, 140)
    assert later(["a"], ["x", "y"]) == ["x", "y"] and later(["a"], []) == []


def test_lines_of_replicas_stand_behind_each_other_as_they_come() -> None:
    book = LogBook(most=5)
    book.begin_anew({FIRST: ["a", "b"], SECOND: ["c"]})
    start = book.end
    assert book.since(-1) == (True, [(0, "a"), (0, "b"), (1, "c")])
    assert book.take({FIRST: ["a", "b", "d"], SECOND: ["c", "e"]})
    assert book.since(start) == (False, [(0, "d"), (1, "e")])
    assert book.since(book.end) == (False, [])
    # A replica that took the place of another begins its log anew.
    assert book.take({"worker:m:2:0-x": ["new"], SECOND: ["c", "e"]})
    assert book.since(-1) == (True, [(0, "b"), (1, "c"), (0, "d"), (1, "e"), (0, "new")])
    assert book.since(start - 3)[0] and not book.since(start)[0]


def test_where_more_was_written_than_was_asked_for_all_is_read_anew() -> None:
    book = LogBook()
    book.begin_anew({FIRST: numbered(0, 2 * TAIL)})
    assert book.take({FIRST: numbered(TAIL + 10, 2 * TAIL + 10)})
    end = book.end
    assert not book.take({FIRST: numbered(9 * TAIL, 10 * TAIL)})
    assert book.end == end
    book.begin_anew({FIRST: numbered(8 * TAIL, 10 * TAIL)})
    assert book.since(end)[0] and len(book.since(end)[1]) == 2 * TAIL


def test_lines_are_text_without_orders_to_a_terminal() -> None:
    assert clean("is \x1b[31mred\x1b[0m, \x1b]0;title\x07bold \x1bcand \udcff") == "is red, bold and ?"
