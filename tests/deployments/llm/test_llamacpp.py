"""llama.cpp's chunks as pieces; the engine is played by functions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import errors
from cluster.worker.family import Finished, Stop
from deployments.llm.llamacpp import Chunks, LlamaCpp
from deployments.llm.pictures import picture_part
from deployments.llm.pieces import Piece, Reply, TalkUsage
from deployments.llm.requests import Query
from tests.seeing import picture

Take = Callable[[Any], bool]
PATIENCE_S = 30.0
USAGE = {"usage": {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}}


def awaited() -> None:
    """Somebody waits for it."""


def delta(content: Any, index: int = 0, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": content, **more}, "finish_reason": finish}]}


def play(engine: Callable[[Any, Take], None], choices: int = 1) -> tuple[list[Piece], Any]:
    told: list[Any] = []
    Chunks(choices, told.append).of(engine, dict)
    *pieces, last = told
    assert isinstance(last, Finished)
    return pieces, last.outcome


def test_chunks_become_pieces_and_the_usage_comes_with_the_last() -> None:
    def engine(body: Any, take: Take) -> None:
        for chunk in (delta(None, role="assistant"), delta("Par"), delta("is"), delta(None, finish="stop"), USAGE):
            assert not take(chunk)

    pieces, reply = play(engine)
    assert [piece.text for piece in pieces] == ["Par", "is", ""]
    assert pieces[-1].finish == "stop" and pieces[-1].usage == TalkUsage(5, 2, 4)
    assert isinstance(reply, Reply) and reply.choices[0].text == "Paris"


def test_calls_and_thoughts_come_as_llama_cpp_has_read_them() -> None:
    call = {"index": 0, "id": "c1", "function": {"name": "time", "arguments": '{"a"'}}
    more = {"index": 0, "function": {"arguments": ":1}"}}

    def engine(body: Any, take: Take) -> None:
        take([delta(None, reasoning_content="hm"), delta(None, tool_calls=[call]), delta(None, tool_calls=[more])])
        take([delta(None, finish="tool_calls"), USAGE])

    _, reply = play(engine)
    (choice,) = reply.choices
    assert (choice.reasoning, choice.finish) == ("hm", "tool_calls")
    assert [tuple(each) for each in choice.calls] == [("c1", "time", '{"a":1}')]


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (
            {"code": 400, "type": "exceed_context_size_error", "n_prompt_tokens": 9000, "n_ctx": 2048, "message": ""},
            errors.ContextLengthExceeded,
            "9000 tokens, .* 2048",
        ),
        ({"code": 400, "message": "no such role"}, errors.BadRequest, "no such role"),
        ({"code": 500, "message": "broken"}, errors.InferenceFailed, "broken"),
    ],
)
def test_a_refusal_is_told_as_an_error(error: dict[str, Any], kind: type[Exception], says: str) -> None:
    def engine(body: Any, take: Take) -> None:
        assert take({"error": error}), "it is to stop"

    pieces, outcome = play(engine)
    assert pieces == [] and type(outcome) is kind
    with pytest.raises(kind, match=says):
        raise outcome


def test_what_the_engine_raises_ends_the_answer() -> None:
    def engine(body: Any, take: Take) -> None:
        raise RuntimeError("out of luck")

    _, outcome = play(engine)
    assert isinstance(outcome, RuntimeError)


def test_a_stopped_answer_is_left_at_the_next_chunk() -> None:
    told: list[Any] = []
    chunks = Chunks(1, told.append)

    def engine(body: Any, take: Take) -> None:
        assert not take(delta("one"))
        chunks.stop()
        assert take(delta("two"))

    chunks.of(engine, dict)
    assert isinstance(told[-1].outcome, errors.RequestCancelled)


class Playing(LlamaCpp):
    """With an engine that answers once it may."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.asked: list[Any] = []
        self._options, self._context = LlamaCpp.Options(), 100
        self._server: Any = SimpleNamespace(handle_chat_completions=self.answer, handle_completions=self.answer)
        self._threads = ThreadPoolExecutor(4)

    def answer(self, body: Any, take: Take) -> None:
        self.asked.append(body)
        assert self.goes_on.wait(PATIENCE_S)
        take([delta("yes", finish="stop"), USAGE])

    def told(self, *parts: Any) -> tuple[Queue[Any], Stop]:
        told: Queue[Any] = Queue()
        return told, self.begin(Query(messages=[{"role": "user", "content": list(parts)}]), told.put)


def test_nothing_is_unpacked_for_somebody_who_has_left() -> None:
    family = Playing()
    red, broken = picture_part(picture("red")), picture_part(b"broken")
    family._threads = ThreadPoolExecutor(1)
    family._threads.submit(family.goes_on.wait)
    told, stop = family.told(broken)
    stop()
    family.goes_on.set()
    assert isinstance(told.get(timeout=PATIENCE_S).outcome, errors.RequestCancelled) and not family.asked
    seen: list[None] = []
    chunks = Chunks(1, told.put)

    def check() -> None:
        if seen:
            chunks.stop()
        seen.append(None)
        chunks.check()

    with pytest.raises(errors.RequestCancelled):
        family._body(Query(messages=[{"role": "user", "content": [red, broken]}]), check)


def test_what_was_unpacked_for_somebody_who_has_left_is_not_asked_for() -> None:
    told: list[Any] = []
    chunks = Chunks(1, told.append)

    def body() -> dict[str, Any]:
        chunks.stop()
        return {}

    chunks.of(lambda body, take: pytest.fail("it is asked for"), body)
    assert isinstance(told[0].outcome, errors.RequestCancelled)


def test_requests_are_weighed_before_anybody_has_counted() -> None:
    family = LlamaCpp()
    family._options, family._context = LlamaCpp.Options(), 100
    prepared = family.prepare("generate", [{"prompt": "x" * 40, "max_tokens": 7, "n": 2}, {"prompt": [1, 2]}], {})
    assert prepared.tokens == [10, 2]
    assert prepared.costs == [34.0, 102.0]


def test_a_picture_is_refused_before_any_work() -> None:
    family = LlamaCpp()
    family._options, family._context = LlamaCpp.Options(), 100
    parts = [{"type": "text", "text": "What is it?"}, picture_part(b"")]
    with pytest.raises(errors.BadRequest, match=r"A message has a picture, and this model reads texts only: launch"):
        family.prepare("chat", [{"messages": [{"role": "user", "content": parts}]}], {})
    assert family.prepare("chat", [{"messages": [{"role": "user", "content": parts[:1]}]}], {}).tokens == [4]


def test_an_adapter_that_no_model_of_it_has_is_refused() -> None:
    family = LlamaCpp()
    family._options, family._context = LlamaCpp.Options(), 100
    with pytest.raises(errors.BadRequest, match="The model has no adapter tea, it has none: launch it with"):
        family.prepare("generate", [{"prompt": "x", "adapter": "tea"}], {})


def test_an_answer_that_had_to_call_a_tool_and_called_none_is_an_error() -> None:
    def said(finish: str) -> Any:
        told: list[Any] = []
        call: Callable[[Any, Take], Any] = lambda body, take: (take(delta("no")), take(delta(None, finish=finish)))  # noqa: E731
        Chunks(1, told.append, must_call=True).of(call, dict)
        return told[-1].outcome

    assert isinstance(said("stop"), errors.BadRequest)
    assert isinstance(said("length"), Reply)


def test_formats_and_named_tools_are_said_in_llamacpps_words() -> None:
    family = LlamaCpp()
    family._options, family._context = LlamaCpp.Options(), 64
    tools = [{"type": "function", "function": {"name": name}} for name in ("a", "b")]
    query = Query(messages=[{"role": "user"}], tools=tools, tool_choice={"function": {"name": "b"}})
    body = family._body(query, awaited)
    assert (body["tools"], body["tool_choice"]) == (tools[1:], "required")
    choice = Query(messages=[{"role": "user"}], format={"type": "choice", "choice": ["yes", "no"]})
    assert family._body(choice, awaited)["grammar"] == 'root ::= "yes" | "no"'
    assert "json_schema" not in family._body(choice, awaited)
