"""Grammars are compiled one after another, beside the engine; compiling is played by a function."""

from __future__ import annotations

import ctypes
import threading
from queue import SimpleQueue
from typing import Any

import pytest

from cluster import errors
from deployments.llm.grammars import MOST_WAITING, Grammars


class Played:
    def __init__(self) -> None:
        self.may_compile = threading.Event()
        self.compiled: list[str] = []
        self.grammars = Grammars(lambda: self._compile)
        self.ended: list[Any] = []
        self.is_done = threading.Semaphore(0)

    def _compile(self, config: Any) -> None:
        assert self.may_compile.wait(5)
        self.compiled.append(config)
        if config == "odd":
            raise RuntimeError("no grammar")

    def prepare(self, name: str) -> bool:
        config: Any = name

        def ready(refusal: errors.ClusterError | None) -> None:
            self.ended.append((name, refusal))
            self.is_done.release()

        return self.grammars.prepare(name, config, ready)

    def wait(self, count: int) -> None:
        for _ in range(count):
            assert self.is_done.acquire(timeout=5)


def test_a_grammar_is_compiled_once_for_all_who_wait_for_it() -> None:
    played = Played()
    assert not any([played.prepare("a"), played.prepare("a"), played.prepare("b")])
    played.may_compile.set()
    played.wait(3)
    assert played.compiled == ["a", "b"] and played.ended == [("a", None), ("a", None), ("b", None)]
    assert played.prepare("a") and played.prepare("b")


def test_one_that_cannot_be_compiled_is_refused_and_the_next_is_not() -> None:
    played = Played()
    played.may_compile.set()
    played.prepare("odd")
    played.prepare("a")
    played.wait(2)
    (_, refusal), second = played.ended
    assert isinstance(refusal, errors.BadRequest) and "no grammar" in refusal.message
    assert second == ("a", None)
    assert not played.prepare("odd"), "it is not known"


def test_more_than_can_wait_are_refused() -> None:
    played = Played()
    for number in range(MOST_WAITING):
        played.prepare(str(number))
    with pytest.raises(errors.Overloaded, match="other forms"):
        played.prepare("more")
    assert not played.prepare("0"), "who waits for the same is no more"
    played.may_compile.set()
    played.wait(MOST_WAITING + 1)


class Kept:
    """As the tokenizer keeps what was compiled: the second time a grammar takes nothing. Each takes 8 MB, and the room
    is for 20."""

    def __init__(self) -> None:
        self.grammars = Grammars(self._compiler, 20_000_000)
        self.kept: dict[str, Any] = {}
        self.own: Any = None
        #: Of those beside it, who allocate for a moment.
        self.others: list[Any] = []
        self.bytes = 8_000_000

    def _compiler(self) -> Any:
        self.own = self.own or ctypes.create_string_buffer(8_000_000)
        return self._compile

    def _compile(self, config: Any) -> None:
        if config not in self.kept:
            self.kept[config] = ctypes.create_string_buffer(self.bytes)

    def outcome(self, name: str) -> errors.ClusterError | None:
        config: Any = name
        outcomes: SimpleQueue[Any] = SimpleQueue()
        try:
            if self.grammars.prepare(name, config, outcomes.put):
                return None
        except errors.ClusterError as refusal:
            return refusal
        outcome: errors.ClusterError | None = outcomes.get(timeout=5)
        return outcome


def test_what_is_too_large_is_refused_however_often_it_is_sent() -> None:
    kept = Kept()
    first, second = kept.outcome("large"), kept.outcome("large")
    assert isinstance(first, errors.BadRequest) and isinstance(second, errors.BadRequest)
    assert "takes 8 MB of memory, and one may take 5 MB" in first.message == second.message
    assert kept.grammars.knows("large") and not kept.grammars.is_full, "nothing else brings the next pipeline"
    kept.bytes = 1000
    assert kept.outcome("small") is None


def test_a_grammar_is_charged_for_nothing_that_others_take_for_a_moment_nor_for_its_compiler() -> None:
    kept = Kept()
    kept.bytes = 1000
    compile = kept._compile

    def beside_others(config: Any) -> None:
        compile(config)
        kept.others.append(ctypes.create_string_buffer(8_000_000))
        threading.Timer(0.2, kept.others.clear).start()

    assert kept.outcome("first") is None, "the compiler took 8 MB"
    kept._compile = beside_others  # type: ignore[method-assign]
    assert kept.outcome("second") is None and not kept.others


def test_its_thread_ends_when_it_is_closed() -> None:
    before = set(threading.enumerate())
    grammars = Played().grammars
    (thread,) = set(threading.enumerate()) - before
    grammars.close()
    thread.join(5)
    assert not thread.is_alive()
