"""OpenVINO's engine over a pipeline that is played: who is held while it is made anew, and who hears of what."""

from __future__ import annotations

import ctypes
import math
import mmap
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster import errors
from deployments.llm.grammars import MOST_KNOWN, Compiler, with_gaps_that_end
from deployments.llm.json_grammars import json_grammar
from deployments.llm.language import Order, TokenSampling
from deployments.llm.openvino import OpenvinoEngine
from deployments.llm.requests import Query
from deployments.llm.weights import let_go_of_pages
from deployments.llm.writing import TokenOdds
from tests.live import until

PATIENCE_S = 30
MB = 1_000_000
GREEDY = TokenSampling(0.0, 1.0, 0, 0.0, None)


class Handle:
    """An answer of as many tokens as it may have, one with each step."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.status = "RUNNING"
        self.news: list[Any] = []

    @property
    def name(self) -> str:
        return self.status

    def get_status(self) -> Handle:
        return self

    def can_read(self) -> bool:
        return bool(self.news)

    def read(self) -> dict[int, Any]:
        return {0: self.news.pop()}

    def cancel(self) -> None:
        self.status = "CANCEL"


class Token:
    generated_ids = (1,)
    generated_log_probs = (0.0,)


class Pipeline:
    def __init__(self, may_step: threading.Event) -> None:
        self.handles: list[Handle] = []
        self.may_step = may_step

    def add_request(self, number: int, ids: Any, config: Any) -> Handle:
        self.handles.append(Handle(config.max_new_tokens))
        return self.handles[-1]

    def step(self) -> None:
        assert self.may_step.wait(PATIENCE_S)
        for handle in self.handles:
            if handle.status == "RUNNING":
                handle.news.append(Token)
                handle.left -= 1
                handle.status = "FINISHED" if not handle.left else "RUNNING"


class Played:
    def __init__(self, patience_s: float = 0.0, room_bytes: float = math.inf, grammar_bytes: int = 0) -> None:
        self.grammar_bytes = grammar_bytes
        #: What the pipelines keep of the grammars that they have met.
        self.kept: list[list[Any]] = []
        self.may_step = threading.Event()
        self.may_step.set()
        self.pipelines: list[Pipeline] = []
        self.engine = OpenvinoEngine(frozenset(), self._made, patience_s, room_bytes)

    def _made(self) -> tuple[Any, Compiler]:
        for kept in self.kept:
            kept.clear()
        self.kept.append([])
        self.pipelines.append(Pipeline(self.may_step))
        return self.pipelines[-1], lambda: self._compile

    def _compile(self, config: Any) -> None:
        self.kept[-1].append(ctypes.create_string_buffer(self.grammar_bytes))

    def write(self, tokens: int = 2, form: int | None = None) -> Heard:
        format = None if form is None else {"type": "regex", "regex": f"a{form}"}
        heard = Heard()
        order = Order([1], Query(prompt=[1], ignore_eos=True, format=format), tokens)
        heard.stop = self.engine.write(order, GREEDY, heard)
        return heard

    def fill(self) -> None:
        """With all grammars that one pipeline may meet."""
        for form in range(MOST_KNOWN):
            assert self.write(form=form).whole() == "length"


class Heard:
    def __init__(self) -> None:
        self.tokens = 0
        self.end: str | Exception | None = None
        self.is_done = threading.Event()

    def __call__(
        self, ids: Sequence[int], odds: Sequence[TokenOdds], end: str | Exception | None, cached: int = 0, /
    ) -> None:
        assert self.end is None, "nothing comes after the end"
        self.tokens += len(ids)
        self.end = end
        if end is not None:
            self.is_done.set()

    stop: Callable[[], None]

    def whole(self) -> str | Exception | None:
        assert self.is_done.wait(PATIENCE_S)
        return self.end


@pytest.fixture
def played() -> Any:
    made = Played()
    yield made
    made.may_step.set()
    made.engine.close()


def test_a_pipeline_that_has_met_too_many_grammars_is_made_anew_and_nobody_fails(played: Played) -> None:
    played.fill()
    assert len(played.pipelines) == 1
    assert (played.write(tokens=5).whole(), played.write(form=0).whole()) == ("length", "length")
    assert len(played.pipelines) == 1, "neither has a further grammar"
    plain, formed = played.write(tokens=5), played.write(form=MOST_KNOWN)
    assert (plain.whole(), formed.whole()) == ("length", "length") and plain.tokens == 5
    assert len(played.pipelines) == 2
    assert played.write(form=0).whole() == "length" and len(played.pipelines) == 2


def test_grammars_that_take_more_memory_are_fewer() -> None:
    played = Played(room_bytes=40 * MB, grammar_bytes=8 * MB)
    most = 0
    for form in range(12):
        assert played.write(form=form).whole() == "length"
        most = max(most, sum(map(len, played.kept)))
    assert len(played.pipelines) == 3 and most <= 5
    # Those that come at once are compiled one after another, and wait when there is no room for more.
    at_once = [played.write(form=100 + form) for form in range(12)]
    assert [heard.whole() for heard in at_once] == ["length"] * 12
    assert max(map(len, played.kept)) <= 5 < len(played.pipelines)
    played.engine.close()


def test_a_grammar_that_is_too_large_is_refused_and_its_memory_comes_back() -> None:
    played = Played(room_bytes=4 * MB, grammar_bytes=8 * MB)
    refused = played.write(form=1).whole()
    assert isinstance(refused, errors.BadRequest) and refused.param == "response_format"
    assert refused.message.startswith("The form of this answer takes 8 MB of memory, and one may take 1 MB")
    until(lambda: len(played.pipelines) == 2, within=PATIENCE_S)
    assert not played.kept[0] and played.write().whole() == "length"
    played.engine.close()


def test_what_is_written_ends_before_that_and_what_is_held_may_be_stopped(played: Played) -> None:
    for form in range(MOST_KNOWN - 1):
        assert played.write(form=form).whole() == "length"
    running = played.write(tokens=2**60)
    until(lambda: running.tokens > 0, within=PATIENCE_S)
    (endless,) = (handle for handle in played.pipelines[0].handles if handle.status == "RUNNING")
    assert played.write(form=MOST_KNOWN).whole() == "length"
    held, beside, stopped = played.write(form=MOST_KNOWN + 1), played.write(), played.write(form=0)
    stopped.stop()
    assert stopped.whole() == "cancelled" and running.end is None
    endless.left = 1
    assert (running.whole(), held.whole(), beside.whole()) == ("length", "length", "length")
    assert [len(each.handles) for each in played.pipelines] == [MOST_KNOWN + 1, 2]


def test_answers_with_a_further_grammar_let_others_go_first_for_a_while() -> None:
    played = Played(PATIENCE_S)
    played.fill()
    running = played.write(tokens=2**60)
    until(lambda: running.tokens > 0, within=PATIENCE_S)
    held = played.write(form=MOST_KNOWN)
    assert played.write().whole() == "length" and played.write(form=0).whole() == "length"
    assert held.end is None and len(played.pipelines) == 1
    played.engine.close()


def test_an_engine_that_fails_tells_everybody(played: Played) -> None:
    played.may_step.clear()
    writing = [played.write(tokens=50) for _ in range(3)]
    until(lambda: len(played.pipelines[0].handles) > 0, within=PATIENCE_S)
    played.pipelines[0].step = lambda: 1 / 0  # type: ignore[method-assign, assignment]
    played.may_step.set()
    for heard in writing:
        assert isinstance(heard.whole(), errors.InferenceFailed)
    with pytest.raises(errors.InferenceFailed, match="ZeroDivisionError"):
        played.write()


def test_a_gap_says_what_may_follow_it() -> None:
    """Or the engine would keep two megabytes for each schema."""
    grammar = json_grammar({"type": "object"})
    assert grammar is not None
    rules = dict(line.split(" ::= ", 1) for line in with_gaps_that_end(grammar).splitlines() if line)
    assert all("(= [" in rules[name] for name in ("gap", *(f"i{number}" for number in range(1, 17))))


def test_pages_of_a_file_are_let_go_and_come_back(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(b"x" * 2**23)

    def resident() -> int:
        at = False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if "-" in line.split()[0]:
                at = line.endswith(f" {file}")
            elif at and line.startswith("Rss:"):
                return int(line.split()[1])
        raise AssertionError("it is not mapped")

    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:].count(b"x") == 2**23 and resident() >= 2**13
        let_go_of_pages(file)
        assert resident() == 0
        assert mapped[2**22] == ord("x")
