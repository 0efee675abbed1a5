"""What loaded OCR models say about themselves."""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.facts import ModelFacts


@dataclass(frozen=True, kw_only=True)
class OcrFacts(ModelFacts):
    languages: tuple[str, ...] | None = None
    #: How many characters it tells apart.
    alphabet: int | None = None
    max_pixels: int | None = None
    model_class: str | None = field(default=None, metadata={"listed_as": "class"})
    tasks: tuple[str, ...] | None = None
    #: Pages that it reads at once.
    batch_pages: int | None = None
