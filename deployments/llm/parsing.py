"""What a model's text says besides its answer: what it thinks before, and the calls of tools. Read as it comes."""

from __future__ import annotations

import json
import secrets
from typing import NamedTuple

from deployments.llm.pieces import CallPiece
from deployments.llm.writing import overlap

THINK, END_OF_THINK = "<think>", "</think>"
CALL, END_OF_CALL = "<tool_call>", "</tool_call>"


class Read(NamedTuple):
    text: str = ""
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()


class Reader:
    """Text that may be the beginning of a mark is kept back until that is known."""

    def __init__(self, *, reasons: bool = False, thinks_first: bool = False, calls: bool = False) -> None:
        """`thinks_first`: the prompt ends within what the model thinks."""
        self._reasons = reasons
        self._calls = calls
        self._kept = ""
        self._state = "thinking" if thinks_first else "text"
        self._is_begun = False
        self._has_thought = False
        self._made = 0

    def add(self, text: str) -> Read:
        self._kept += text
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[CallPiece] = []
        while True:
            before, mark = self._until_mark()
            if self._state == "calling":
                if not mark:
                    break
                calls += self._call_in(before, texts)
                self._state = "text"
                continue
            (thoughts if self._state == "thinking" else texts).append(before)
            if not mark:
                break
            self._state = {THINK: "thinking", END_OF_THINK: "text", CALL: "calling"}[mark]
            self._has_thought |= mark in (THINK, END_OF_THINK)
        return self._told(texts, thoughts, calls)

    def end(self) -> Read:
        """What was kept back, if nothing more comes."""
        kept, self._kept = self._kept, ""
        if self._state == "thinking":
            return self._told([], [kept], [])
        if self._state != "calling":
            return self._told([kept], [], [])
        texts: list[str] = []
        calls = self._call_in(kept, texts, is_whole=False)
        return self._told(texts, [], calls)

    def _told(self, texts: list[str], thoughts: list[str], calls: list[CallPiece]) -> Read:
        text, reasoning = "".join(texts), "".join(thoughts)
        # Models put empty lines between what they think and say, and before a call.
        if not self._is_begun:
            text = text.lstrip("\n") if self._reasons or self._calls else text
            self._is_begun = bool(text)
        return Read(text, reasoning, tuple(calls))

    def _marks(self) -> tuple[str, ...]:
        if self._state == "thinking":
            return (END_OF_THINK,)
        if self._state == "calling":
            return (END_OF_CALL,)
        # Only at the beginning does a model think; later the mark would be what it writes about.
        start = self._kept.lstrip()[: len(THINK)]
        thinks = self._reasons and not self._is_begun and not self._has_thought and THINK.startswith(start)
        return (*((THINK,) if thinks else ()), *((CALL,) if self._calls else ()))

    def _until_mark(self) -> tuple[str, str]:
        """The text before the first mark, and the mark; without one, all but what may be the beginning of one."""
        met = [(self._kept.index(mark), mark) for mark in self._marks() if mark in self._kept]
        if met:
            at, mark = min(met)
            before, self._kept = self._kept[:at], self._kept[at + len(mark) :]
            return before, mark
        if self._state == "calling":
            return "", ""
        kept = max((overlap(self._kept, mark) for mark in self._marks()), default=0)
        before, self._kept = self._kept[: len(self._kept) - kept], self._kept[len(self._kept) - kept :]
        return before, ""

    def _call_in(self, text: str, texts: list[str], is_whole: bool = True) -> list[CallPiece]:
        """The call, or what was taken for one as the text that it is."""
        try:
            call = json.loads(text)
        except ValueError:
            call = None
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            texts.append(f"{CALL}{text}{END_OF_CALL if is_whole else ''}")
            return []
        arguments = call.get("arguments", call.get("parameters", {}))
        number, self._made = self._made, self._made + 1
        written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        return [CallPiece(number, f"call_{secrets.token_hex(12)}", call["name"], written)]
