"""Which tokens may come next in an answer that is held to a form, for engines that know no grammars themselves."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import errors
from cluster.value import JsonObject
from deployments.llm.json_grammars import COMMON, json_grammar
from deployments.llm.schemas import grammar_of

if TYPE_CHECKING:
    import torch
    from llguidance import LLMatcher, LLTokenizer

#: Forms that are kept as they were compiled.
MOST_KEPT = 256
#: Of our grammars: texts, classes of letters, names, and signs.
_PARTS = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|\w+|::=|.', re.DOTALL)
#: Rules that no rule leads back to. In capitals they are read like words, letter by letter only once.
_WORDS = frozenset(re.findall(r"^(\w+) ::=", COMMON, re.MULTILINE)) - {"gap", "any", "list", "object"}
_NAMES = {"::=": ":", "root": "start", **{word: word.upper() for word in _WORDS}}


def lark(grammar: str) -> str:
    """A grammar of ours as llguidance reads it."""
    return "".join(_lark_part(part) for part in _PARTS.findall(grammar))


def _lark_part(part: str) -> str:
    return "/" + part.replace("/", r"\/") + "/" if part.startswith("[") else _NAMES.get(part, part)


class TokenForms:
    """The forms of one model's answers; one thread compiles. The vocabulary is read for the first one."""

    def __init__(self, folder: Path, ends: Collection[int], width: int) -> None:
        """`folder`: of the model; `width`: how many tokens it tells chances of."""
        self._file = folder / "tokenizer.json"
        self._ends = sorted(ends)
        self._width = width
        self._words: LLTokenizer | None = None
        self._lock = threading.Lock()
        #: By the form as JSON, the oldest first.
        self._kept: dict[str, LLMatcher] = {}

    def begun(self, format: JsonObject) -> TokenForm | None:
        """For one answer; None where that has to be compiled first."""
        name = json.dumps(format)
        with self._lock:
            if name not in self._kept:
                return None
            matcher = self._kept[name] = self._kept.pop(name)
        return TokenForm(matcher.deep_copy(), self._width)

    def compiled(self, format: JsonObject) -> TokenForm:
        """For one answer, and kept for others. Takes up to a tenth of a second, mostly without Python's lock. Raises
        ValueError for what no answer can be held to."""
        from llguidance import LLMatcher

        if self._words is None:
            self._words = self._read_words()
        matcher = LLMatcher(self._words, _grammar(format), log_level=0)
        if matcher.is_error():
            raise ValueError(_reason(matcher))
        # Of the looks at the vocabulary the first one takes longest.
        matcher.deep_copy().compute_bitmask()
        with self._lock:
            self._kept[json.dumps(format)] = matcher
            if len(self._kept) > MOST_KEPT:
                del self._kept[next(iter(self._kept))]
        return TokenForm(matcher.deep_copy(), self._width)

    def _read_words(self) -> LLTokenizer:
        from llguidance import LLTokenizer

        if not self._ends:
            raise ValueError("the model has no token that ends an answer.")
        return LLTokenizer(self._file.read_text("utf-8"), n_vocab=self._width, eos_token=self._ends)


class TokenForm:
    """How far one answer has come in its form."""

    def __init__(self, matcher: LLMatcher, width: int) -> None:
        self._matcher = matcher
        self._width = width

    def allowed(self) -> torch.Tensor:
        """Whether each token of the vocabulary may come next."""
        import numpy
        import torch

        bits = numpy.frombuffer(self._matcher.compute_bitmask(), numpy.uint8)
        if self._matcher.is_error():
            raise errors.InferenceFailed(f"The answer left its form: {_reason(self._matcher)}")
        return torch.from_numpy(numpy.unpackbits(bits, count=self._width, bitorder="little").astype(bool))

    def take(self, id: int) -> None:
        self._matcher.consume_token(id)


def _reason(matcher: LLMatcher) -> str:
    return matcher.get_error().splitlines()[0]


def _grammar(format: JsonObject) -> str:
    from llguidance import LLMatcher

    schema: Any = format["schema"] if format.get("type") == "json_schema" else {"type": "object"}
    if (grammar := grammar_of(format) or json_grammar(schema)) is not None:
        return str(LLMatcher.grammar_from_lark(lark(grammar)))
    # Of numbers between bounds that are not whole.
    return str(LLMatcher.grammar_from_json_schema(schema, defaults={"whitespace_flexible": False}))
