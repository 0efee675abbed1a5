"""The contract between a worker and the code that can run one kind of model.

A family is one class with `Options`, `example`, `load`, `prepare`, `run`. Torch and its friends are imported inside
`load` and nowhere else, so that knowing of a family costs nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel

from cluster.spec import Entry, Source


@dataclass(frozen=True)
class Setup:
    """All a family gets to load its model."""

    entry: Entry
    source: Source
    #: Validated `Options` of the family.
    options: Any
    folder: Path
    #: `cpu`, `cuda`, `mps`.
    device: str
    threads: int
    #: What part of its card it may use.
    card_share: float = 1.0
    quantization: str | None = None
    allow_pickle: bool = False
    remote_code: bool = False
    #: Tells how far loading is, 0 to 1.
    report: Callable[[float], None] = lambda fraction: None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request ready for the queue: its inputs, what each costs, and which others it may be batched with."""

    values: Sequence[Any]
    tokens: Sequence[int]
    key: Hashable = ()
    #: Given when the answer needs no model: then nothing is queued.
    answers: list[Any] | None = None


@dataclass(frozen=True)
class Example:
    """What a family warms up on, and what a probe runs."""

    items: Sequence[Any]
    params: Mapping[str, Any] = field(default_factory=dict)
    ability: str = ""


class Family(Protocol):
    #: Names under which `model_engine` finds it.
    engines: ClassVar[tuple[str, ...]]
    #: What its models can be asked for: embed, rerank, ...
    abilities: ClassVar[tuple[str, ...]]
    #: Launch options; unknown ones are refused at the door.
    Options: ClassVar[type[BaseModel]]
    example: ClassVar[Example]

    def load(self, setup: Setup) -> Mapping[str, Any]:
        """Loads the model; what it returns is told to whoever asks about the model."""

    def prepare(self, ability: str, items: Sequence[Any], params: Mapping[str, Any]) -> Prepared:
        """Checks and encodes one request, off the event loop when large; raises BadRequest for that caller alone."""

    def run(self, batch: Sequence[Any]) -> Sequence[Any]:
        """As many answers as inputs, in one thread."""

    def pack(self, outputs: list[Any], params: Mapping[str, Any]) -> Any:
        """One caller's answers as they travel: what he asked for, arrays stacked to one array."""

    def set_threads(self, threads: int) -> None:
        """How many cores it may use from now on; called in the thread that calls `run`."""


def load_family(path: str) -> type[Family]:
    """The class named `module:Class`."""
    module, _, name = path.partition(":")
    found: type[Family] = getattr(importlib.import_module(module), name)
    return found


def path_of(family: type[Family]) -> str:
    return f"{family.__module__}:{family.__qualname__}"
