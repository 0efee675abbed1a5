"""A model type as a plugin: a family with an ability of its own, and beside it in `http` the route that asks for it.

CLUSTER_PLUGINS=language PYTHONPATH=docs/examples cluster up --detach
cluster launch --model-name common-words
curl localhost:9997/v1/language -d '{"model": "common-words", "input": ["the cat and the dog"]}'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from cluster import errors
from cluster.catalog.entry import Entry, Source
from cluster.facts import ModelFacts
from cluster.worker.family import Batched, Example, Params, Prepared, Setup
from deployments import ModelType

WORDS = {
    "en": {"the", "and", "of", "to", "is", "in", "that"},
    "de": {"der", "die", "das", "und", "ist", "in", "nicht"},
    "fr": {"le", "la", "les", "et", "est", "dans", "que"},
}


class CommonWordsOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True)
class KnownLanguages(ModelFacts):
    """What the model says about itself; listings show it."""

    languages: tuple[str, ...]


class CommonWords(Batched):
    """Takes a text for the language whose commonest words it has most of."""

    engines: ClassVar[tuple[str, ...]] = ("common-words",)
    abilities: ClassVar[tuple[str, ...]] = ("language",)
    Options: ClassVar[type[BaseModel]] = CommonWordsOptions
    example: Example = Example(["the cat and the dog"], {}, "language")

    def load(self, setup: Setup) -> KnownLanguages:
        return KnownLanguages(languages=tuple(sorted(WORDS)))

    def prepare(self, ability: str, items: Sequence[Any], params: Params) -> Prepared:
        if not all(isinstance(item, str) for item in items):
            raise errors.BadRequest("Each input must be a text.", "input")
        return Prepared([item.lower().split() for item in items], [len(item) for item in items])

    def run(self, batch: Sequence[list[str]]) -> Sequence[object]:
        return [max(WORDS, key=lambda language: sum(word in WORDS[language] for word in words)) for words in batch]

    def pack(self, outputs: list[Any], params: Params) -> object:
        return outputs


SOURCE = Source(hub="local", id=str(Path(__file__).parent))
ENTRY = Entry(
    name="common-words", type="language", family="common-words", sources=(SOURCE,), facts={"claim_bytes": 200_000_000}
)
TYPES = (ModelType(name="language", families={"common-words": CommonWords}, entries=(ENTRY,)),)
