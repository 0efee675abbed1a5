"""Which lines of a log are new, and who is told of them."""

from __future__ import annotations

import asyncio
from typing import cast

from cluster import errors
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.status import LOG_LINES
from deployments.ingress.log_lines import LogBook, LogFollowers, clean, later

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


def test_where_more_was_written_than_a_worker_keeps_all_is_read_anew() -> None:
    book = LogBook()
    book.begin_anew({FIRST: numbered(0, LOG_LINES)})
    assert book.take({FIRST: numbered(LOG_LINES - 1, 2 * LOG_LINES - 1)})
    end = book.end
    assert not book.take({FIRST: numbered(8 * LOG_LINES, 9 * LOG_LINES)})
    assert book.end == end
    book.begin_anew({FIRST: numbered(8 * LOG_LINES, 9 * LOG_LINES)})
    assert book.since(end)[0] and len(book.since(end)[1]) == LOG_LINES


def test_a_worker_that_once_did_not_answer_goes_on_where_it_was() -> None:
    book = LogBook()
    book.begin_anew({FIRST: ["a", "b"], SECOND: ["c"]})
    end = book.end
    assert book.take({FIRST: [], SECOND: ["c", "d"]})
    assert book.take({FIRST: ["a", "b", "e"], SECOND: ["c", "d"]})
    assert book.since(end) == (False, [(1, "d"), (0, "e")])


def test_lines_are_text_without_orders_to_a_terminal() -> None:
    assert clean("is \x1b[31mred\x1b[0m, \x1b]0;title\x07bold \x1bcand \udcff") == "is red, bold and ?"


class Forgetful:
    """A supervisor that has lost a model."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.has_model = False

    async def worker_logs(self, uid: str, lines: int) -> dict[str, list[str]]:
        self.asked.append("worker_logs")
        if not self.has_model:
            raise errors.UnknownUid(f"Model not found in the model list, uid: {uid}", "model_uid")
        return {FIRST: ["a"]}

    async def logs(self, uid: str, lines: int) -> list[str]:
        self.asked.append("logs")
        return []


def test_nobody_goes_on_asking_for_the_lines_of_a_model_that_has_gone() -> None:
    async def scene() -> None:
        supervisor = Forgetful()
        followers = LogFollowers(cast(SupervisorClient, supervisor))
        async with asyncio.timeout(5):
            assert [lines async for lines in followers.read("m", "")] == []
            assert supervisor.asked == ["worker_logs"]
            # It is followed anew where it comes back.
            supervisor.has_model = True
            reading = followers.read("m", "")
            assert (await anext(reading))["lines"] == ["a"]
            await reading.aclose()

    asyncio.run(scene())
