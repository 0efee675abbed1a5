"""One answer as it is written: tokens in, text out, up to a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from deployments.llm.pieces import TokenChance
from deployments.llm.vocabulary import Vocabulary


class TokenOdds(NamedTuple):
    """How likely the model found a token that was written."""

    logprob: float
    #: The likeliest tokens at its place, where they were asked for: id and logprob of each.
    top: Sequence[tuple[int, float]] = ()


class WrittenTokens(NamedTuple):
    text: str = ""
    chances: tuple[TokenChance, ...] = ()
    #: The stop string that it ended at.
    stop: str | None = None


class AnswerWriter:
    """Text that may be the beginning of a stop string is kept back until that is known."""

    def __init__(
        self, vocabulary: Vocabulary, stops: Sequence[str], wants_chances: bool, may_call: bool = False
    ) -> None:
        self._vocabulary = vocabulary
        self._decoder = vocabulary.decoder()
        self._stops = tuple(stops)
        self._wants_chances = wants_chances
        self._marks = vocabulary.call_marks if may_call else {}
        self._kept = ""
        self.tokens = 0

    def add(self, ids: Sequence[int], odds: Sequence[TokenOdds]) -> WrittenTokens:
        self.tokens += len(ids)
        texts = [self._marks.get(id) or self._decoder.text_of(id) for id in ids if id not in self._vocabulary.ends]
        text = self._kept + "".join(texts)
        text, self._kept, stop = cut_at(text, self._stops)
        return WrittenTokens(text, self._chances(ids, odds), stop)

    def end(self) -> str:
        """What was kept back, if nothing more comes."""
        text, self._kept = self._kept, ""
        return text

    def _chances(self, ids: Sequence[int], odds: Sequence[TokenOdds]) -> tuple[TokenChance, ...]:
        if not self._wants_chances:
            return ()
        return tuple(
            TokenChance(*self._row(id, each.logprob), top=tuple(self._row(*other) for other in each.top))
            for id, each in zip(ids, odds, strict=False)
        )

    def _row(self, id: int, logprob: float) -> tuple[str, float, tuple[int, ...]]:
        text = self._vocabulary.token(id)
        return text, logprob, tuple(text.encode())


def cut_at(text: str, stops: Sequence[str]) -> tuple[str, str, str | None]:
    """The text before the first stop string, what may be the beginning of one, and the one that was met."""
    met = [(text.index(stop), stop) for stop in stops if stop in text]
    if met:
        at, stop = min(met)
        return text[:at], "", stop
    kept = max((overlap(text, stop) for stop in stops), default=0)
    return text[: len(text) - kept], text[len(text) - kept :], None


def overlap(text: str, stop: str) -> int:
    """How much of the end of a text is the beginning of a stop string."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
