"""An entry of the catalogue, and where its weights are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field, model_validator

from cluster.value import JsonObject, Value


class Source(Value):
    """One place that has the weights, or several that differ in the size and the quantisation of the model: both may
    stand in the id and in the path, as `{size}` and `{quantization}`."""

    hub: Literal["huggingface", "modelscope", "package", "local"]
    #: Hub repository, import name of the package that ships them, or a folder.
    id: str
    #: Commit or tag. None if none is pinned; the commit that was downloaded is recorded beside the weights.
    revision: str | None = None
    #: Folder, or the one file, inside the repository or package.
    path: str = ""
    #: Patterns of files that a launch does not need, e.g. `text_encoder_3/*`.
    exclude: tuple[str, ...] = ()
    #: Which of several precisions, e.g. fp16; if the repository does not have it, the plain files.
    variant: str = ""
    format: str = "pytorch"
    #: As ids and paths spell them: 0.6B, 135M, 30B-A3B. Empty where a model has only one.
    sizes: tuple[str, ...] = ()
    quantizations: tuple[str, ...] = ("none",)
    #: Weights of each size, in billions, in the same order, where its name says another number: a round one, or only of
    #: those that each token is computed with.
    billions: tuple[float, ...] = ()
    #: Of a weight in its files, on average, where the format does not say.
    bits: float | None = None
    #: What GGUF calls the architecture; empty where nobody said.
    architecture: str = ""

    def variants(self) -> Iterator[Source]:
        """One for each size and quantisation."""
        for size in self.sizes or (None,):
            for quantization in self.quantizations:
                yield self.narrowed(size, quantization)

    def narrowed(self, size: str | None, quantization: str) -> Source:
        id, path = (_filled(text, size, quantization) for text in (self.id, self.path))
        sizes = (size,) if size is not None else ()
        billions = self.billions
        if size in self.sizes and billions:
            billions = (billions[self.sizes.index(size)],)
        named = {"sizes": sizes, "quantizations": (quantization,), "billions": billions}
        return self.model_copy(update={**named, "id": id, "path": path})

    @model_validator(mode="after")
    def _weights_of_each_size(self) -> Self:
        if self.billions and len(self.billions) != len(self.sizes or ("",)):
            raise ValueError(f"billions takes a number for each of {len(self.sizes or ('',))} sizes")
        return self

    @property
    def size(self) -> str | None:
        """Of a variant."""
        return self.sizes[0] if self.sizes else None

    @property
    def weight_billions(self) -> float | None:
        """Of a variant."""
        if self.billions:
            return self.billions[0]
        return billions_in(self.size) if self.size is not None else None

    def ids(self) -> Iterator[str]:
        for size in self.sizes if "{size}" in self.id else (None,):
            for quantization in self.quantizations if "{quantization}" in self.id else ("",):
                yield _filled(self.id, size, quantization)


def _filled(text: str, size: str | None, quantization: str) -> str:
    return text.replace("{size}", size or "").replace("{quantization}", quantization)


def billions_in(size: object) -> float | None:
    """How many weights a spelled size means: 0.6B, 0_6, 135M and 30B-A3B, of which the first number counts."""
    match = re.search(r"(\d{1,6}(?:[._]\d{1,6})?)\s*([a-z]?)", str(size).lower())
    if match is None:
        return None
    number = float(match[1].replace("_", "."))
    return number / 1000 if match[2] == "m" else number


def xinference_size(size: str | None) -> int | str | None:
    """As Xinference writes it: 8, and 0_6."""
    billions = billions_in(size) if size is not None else None
    if billions is None:
        return None
    return int(billions) if billions == int(billions) else f"{billions:g}".replace(".", "_")


class Entry(Value):
    """A catalogue row, built in or registered."""

    name: str
    type: str
    #: The code that can load it: a key of its type's `families`.
    family: str
    sources: tuple[Source, ...]
    aliases: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    max_tokens: int | None = None
    licence: str | None = None
    gated: bool = False
    #: Needs code from its repository; launches only if the operator allows that code by name.
    remote_code: bool = False
    #: Bytes of the weights, if known without looking at them.
    weight_bytes: int | None = None
    description: str = ""
    #: Defaults for the family's launch options.
    options: JsonObject = Field(default_factory=dict)
    #: Facts that only the model's own type reads (dimensions, prompts, pipeline classes, ...).
    facts: JsonObject = Field(default_factory=dict)
    builtin: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """What it is found by; within a type, every name belongs to one entry."""
        return (self.name, *self.aliases)

    @property
    def hub_ids(self) -> tuple[str, ...]:
        return self.hub_ids_of(None)

    def hub_ids_of(self, size: str | None) -> tuple[str, ...]:
        """Of the model in that size, or in all of them."""
        sized = [
            source if size is None or size not in source.sizes else source.model_copy(update={"sizes": (size,)})
            for source in self.sources
            if source.hub in ("huggingface", "modelscope")
            and (size is None or not source.sizes or size in source.sizes)
        ]
        return tuple(dict.fromkeys(id for source in sized for id in source.ids()))
