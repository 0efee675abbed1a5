"""What loaded text models say about themselves."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.facts import ModelFacts
from cluster.value import JsonObject


@dataclass(frozen=True, kw_only=True)
class TextFacts(ModelFacts):
    #: Whether texts of different length share a batch without padding.
    packed: bool | None = None
    #: What trying the engines on this machine showed, where the engine was chosen so.
    engines: tuple[JsonObject, ...] | None = None
    #: Names of the prompts that requests may use.
    prompts: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class EmbeddingFacts(TextFacts):
    dimensions: int | None = None


@dataclass(frozen=True, kw_only=True)
class RerankFacts(TextFacts):
    type: str


@dataclass(frozen=True, kw_only=True)
class ClassifyFacts(TextFacts):
    labels: tuple[str, ...]
    #: Whether the labels exclude each other, and share a probability of 1.
    exclusive: bool
