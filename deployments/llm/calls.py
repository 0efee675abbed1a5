"""How models write the calls of tools into their text: in three ways, by the family of the model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

CALL, END_OF_CALL = "<tool_call>", "</tool_call>"
PYTHON_TAG = "<|python_tag|>"
TOOL_CALLS = "[TOOL_CALLS]"
#: Tokens that are special in some vocabularies, and say where a call is and what is in it.
CALL_MARKS = (CALL, END_OF_CALL, PYTHON_TAG, TOOL_CALLS, "[CALL_ID]", "[ARGS]")

#: What may stand before the JSON of a call. Longer than this it is none.
MOST_HEAD = 400
OBJECT_HEAD = re.compile(r"[\s;]{0,32}(?=\{)")
MISTRAL_HEAD = re.compile(
    r"\s{0,16}(?:([\w.-]{1,256})(?:\[CALL_ID\][\w-]{0,64})?(?:\[ARGS\])?\s{0,16}(?=\{)|(?=[\[{]))"
)


class WrittenCall(NamedTuple):
    name: str
    #: The JSON of its arguments.
    arguments: str


class TakenCalls(NamedTuple):
    """What stands behind a mark: the calls in so many characters. Without calls those are text."""

    calls: list[WrittenCall]
    length: int


class CallFormat(NamedTuple):
    """`mark` begins a call; with `is_bare`, an answer that is an object may be one too."""

    mark: str
    is_bare: bool
    #: Calls follow one another without the mark.
    goes_on: bool
    body: Callable[[], HermesBody | JsonBody]


class HermesBody:
    """JSON up to a mark that ends it."""

    def __init__(self) -> None:
        self._searched = 0

    def take(self, text: str, is_last: bool) -> TakenCalls | None:
        """None: more has to come. `text` is what was given before and more."""
        at = text.find(END_OF_CALL, max(0, self._searched - len(END_OF_CALL)))
        self._searched = len(text)
        if at >= 0:
            return TakenCalls(calls_of(_json(text[:at])), at + len(END_OF_CALL))
        return TakenCalls(calls_of(_json(text)), len(text)) if is_last else None


class JsonBody:
    """JSON that ends where its brackets close. Before it may stand the name of the tool, which it then is for."""

    def __init__(self, head: re.Pattern[str], may_begin: re.Pattern[str]) -> None:
        self._head_form = head
        self._may_begin = may_begin
        self._head: re.Match[str] | None = None
        self._end = JsonEnd()

    def take(self, text: str, is_last: bool) -> TakenCalls | None:
        self._head = self._head or self._head_form.match(text)
        if self._head is None:
            is_none = len(text) >= MOST_HEAD or not self._may_begin.match(text)
            return TakenCalls([], 0) if is_none or is_last else None
        end = self._end.of(text, self._head.end())
        if end is None:
            return TakenCalls([], len(text)) if is_last else None
        value = _json(text[self._head.end() : end])
        name = self._head[1] if self._head.re.groups else None
        if name is not None:
            return TakenCalls([_call(name, value)] if isinstance(value, dict) else [], end)
        return TakenCalls(calls_of(value, needs_arguments=True), end)


class JsonEnd:
    """Where the brackets of a text close that comes in pieces. Each character is read once."""

    _SIGNS = re.compile(r'[{}\[\]"\\]')

    def __init__(self) -> None:
        self._at = 0
        self._depth = 0
        self._is_in_string = False

    def of(self, text: str, start: int) -> int | None:
        self._at = max(self._at, start)
        while (sign := self._SIGNS.search(text, self._at)) is not None:
            self._at = sign.end()
            if sign[0] == "\\":
                if self._at == len(text):
                    self._at = sign.start()  # what it escapes is still to come
                    return None
                self._at += 1
            elif sign[0] == '"':
                self._is_in_string = not self._is_in_string
            elif not self._is_in_string:
                self._depth += 1 if sign[0] in "{[" else -1
                if self._depth == 0:
                    return self._at
        self._at = len(text)
        return None


def calls_of(value: Any, needs_arguments: bool = False) -> list[WrittenCall]:
    """One or a list of them; none if any is no call."""
    values = value if isinstance(value, list) else [value]
    calls = []
    for each in values:
        if not isinstance(each, dict) or not isinstance(each.get("name"), str):
            return []
        arguments = each.get("arguments", each.get("parameters"))
        if arguments is None and needs_arguments:
            return []
        calls.append(_call(each["name"], {} if arguments is None else arguments))
    return calls


def _call(name: str, arguments: Any) -> WrittenCall:
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return WrittenCall(name, written)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    # Brackets may be nested deeper than they can be read.
    except (ValueError, RecursionError):
        return None


def _object() -> JsonBody:
    return JsonBody(OBJECT_HEAD, re.compile(r"[\s;]*\{|[\s;]*\Z"))


def _mistral() -> JsonBody:
    return JsonBody(MISTRAL_HEAD, re.compile(r"\s*(?:[\w.\[{-]|\Z)"))


FORMATS = {
    #: Qwen's too.
    "hermes": CallFormat(CALL, False, False, HermesBody),
    "llama3": CallFormat(PYTHON_TAG, True, True, _object),
    "mistral": CallFormat(TOOL_CALLS, False, False, _mistral),
    #: An answer that a grammar holds to being one call.
    "forced": CallFormat("", True, False, _object),
}


def format_in(template: str) -> str:
    """The name of the format that a chat template teaches."""
    if CALL in template:
        return "hermes"
    if TOOL_CALLS in template:
        return "mistral"
    return "llama3" if PYTHON_TAG in template or "<|start_header_id|>" in template else "hermes"
