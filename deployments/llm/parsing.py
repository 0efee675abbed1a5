"""What a model's text says besides its answer: what it thinks before, and the calls of tools. Read as it comes."""

from __future__ import annotations

import secrets
from typing import NamedTuple

from deployments.llm.calls import FORMATS, HermesBody, JsonBody
from deployments.llm.pieces import CallPiece
from deployments.llm.writing import overlap

THINK, END_OF_THINK = "<think>", "</think>"


class Read(NamedTuple):
    text: str = ""
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()


class Reader:
    """Text that may be the beginning of a mark is kept back until that is known."""

    def __init__(
        self,
        *,
        reasons: bool = False,
        thinks_first: bool = False,
        calls: str | None = None,
        marks: tuple[str, str] = (THINK, END_OF_THINK),
    ) -> None:
        """`thinks_first`: the prompt ends within what the model thinks. `calls`: the name of the format of calls.
        `marks`: what stands around its thoughts."""
        self._reasons = reasons
        self._think, self._end_of_think = marks
        self._calls = FORMATS[calls] if calls else None
        self._kept = ""
        self._state = "thinking" if thinks_first else "text"
        #: Of the call that is being written: what began it, and what reads it.
        self._mark = ""
        self._body: HermesBody | JsonBody | None = None
        self._is_begun = False
        self._has_thought = False
        self._made = 0

    def add(self, text: str) -> Read:
        self._kept += text
        return self._read(False)

    def end(self) -> Read:
        """What was kept back, if nothing more comes."""
        return self._read(True)

    def _read(self, is_last: bool) -> Read:
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[CallPiece] = []
        while True:
            if self._state == "calling":
                if not self._take(texts, calls, is_last):
                    break
                continue
            before, mark = self._until_mark(is_last)
            if self._state == "thinking":
                thoughts.append(before)
            else:
                self._say(texts, before)
            if mark is None:
                break
            if mark in (self._think, self._end_of_think):
                self._state = "thinking" if mark == self._think else "text"
                self._has_thought = True
            else:
                self._begin_call(mark)
        return Read("".join(texts), "".join(thoughts), tuple(calls))

    def _say(self, texts: list[str], text: str) -> None:
        # Models put empty lines between what they think and say, and before a call.
        if not self._is_begun and (self._reasons or self._calls):
            text = text.lstrip("\n")
        self._is_begun |= bool(text)
        texts.append(text)

    def _marks(self) -> tuple[str, ...]:
        if self._state == "thinking":
            return (self._end_of_think,)
        # Only at the beginning does a model think; later the mark would be what it writes about.
        start = self._kept.lstrip()[: len(self._think)]
        thinks = self._reasons and not self._is_begun and not self._has_thought and self._think.startswith(start)
        return (*((self._think,) if thinks else ()), *((self._calls.mark,) if self._calls and self._calls.mark else ()))

    def _until_mark(self, is_last: bool) -> tuple[str, str | None]:
        """The text before the first mark, and the mark; without one, all but what may be the beginning of one."""
        if self._state == "text" and self._calls and self._calls.is_bare and not self._is_begun:
            start = self._kept.lstrip()
            if start.startswith("{"):
                return "", ""
            if not start and not is_last:
                return "", None
        met = [(self._kept.index(mark), mark) for mark in self._marks() if mark in self._kept]
        if met:
            at, mark = min(met)
            before, self._kept = self._kept[:at], self._kept[at + len(mark) :]
            return before, mark
        kept = 0 if is_last else max((overlap(self._kept, mark) for mark in self._marks()), default=0)
        before, self._kept = self._kept[: len(self._kept) - kept], self._kept[len(self._kept) - kept :]
        return before, None

    def _begin_call(self, mark: str) -> None:
        assert self._calls is not None
        self._state, self._mark, self._body = "calling", mark, self._calls.body()

    def _take(self, texts: list[str], calls: list[CallPiece], is_last: bool) -> bool:
        """The calls, or what was taken for them as the text that it is; False if more has to come."""
        assert self._calls is not None and self._body is not None
        taken = self._body.take(self._kept, is_last)
        if taken is None:
            return False
        written, self._kept = self._kept[: taken.length], self._kept[taken.length :]
        for call in taken.calls:
            calls.append(CallPiece(self._made, f"call_{secrets.token_hex(12)}", call.name, call.arguments))
            self._made += 1
        self._state = "text"
        if taken.calls and self._calls.goes_on:
            self._begin_call("")
        elif not taken.calls:
            # An object that is no call is an answer, with whatever follows.
            self._is_begun |= bool(self._mark + written) or self._kept.lstrip().startswith("{")
            texts.append(self._mark + written)
        return True
