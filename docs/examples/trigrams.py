"""A model family in 40 lines: vectors that count the groups of three letters in a text, with no weights at all.

CLUSTER_PLUGINS=trigrams PYTHONPATH=docs/examples cluster up --detach
cluster launch --model-name trigrams --dimensions 256
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from zlib import crc32

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from cluster.catalog.entry import Entry, Source
from cluster.worker.family import Batched, Example, Params, Prepared, Setup
from deployments import ModelType
from deployments.text.facts import EmbeddingFacts


class TrigramOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    dimensions: int = Field(default=512, ge=8, le=4096, description="Length of the vectors.")


class Trigrams(Batched):
    engines: ClassVar[tuple[str, ...]] = ("trigrams",)
    abilities: ClassVar[tuple[str, ...]] = ("embed",)
    Options: ClassVar[type[BaseModel]] = TrigramOptions
    example: Example = Example(["hello"], {}, "embed")

    def load(self, setup: Setup) -> EmbeddingFacts:
        self._dimensions: int = setup.options.dimensions
        return EmbeddingFacts(dimensions=self._dimensions)

    def prepare(self, ability: str, items: Sequence[str], params: Params) -> Prepared:
        return Prepared(items, [len(text) for text in items])

    def run(self, batch: Sequence[str]) -> Sequence[object]:
        return [self._vector(f"  {text.lower()} ") for text in batch]

    def _vector(self, text: str) -> np.ndarray:
        places = [crc32(text[start : start + 3].encode()) % self._dimensions for start in range(len(text) - 2)]
        counts = np.bincount(places, minlength=self._dimensions).astype(np.float32)
        return counts / np.linalg.norm(counts)

    def pack(self, outputs: list[Any], params: Params) -> object:
        return np.stack(outputs)


SOURCE = Source(hub="local", id=str(Path(__file__).parent))
ENTRY = Entry(
    name="trigrams", type="trigrams", family="trigrams", sources=(SOURCE,), facts={"claim_bytes": 200_000_000}
)
TYPES = (ModelType(name="trigrams", families={"trigrams": Trigrams}, entries=(ENTRY,)),)
