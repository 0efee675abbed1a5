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

from cluster.catalog.entry import Entry, Source


@dataclass(frozen=True)
class Setup:
    """All a family gets to load its model."""

    entry: Entry
    source: Source
    #: Validated `Options` of the family.
    options: Any
    folder: Path
    #: `cuda`, `xpu` or `mps`, as torch calls it; `cpu` without a card.
    device: str
    threads: int
    #: What part of its card it may use.
    card_share: float = 1.0
    quantization: str | None = None
    #: Names of the options that the launch gave; the others are the entry's or the family's defaults.
    asked: frozenset[str] = frozenset()
    #: As the launch asked for it.
    engine: str | None = None
    #: Folder of the installation: what a machine made of a model's weights is kept there.
    home: Path = Path()
    allow_pickle: bool = False
    remote_code: bool = False
    #: Finds or downloads further weights; returns their folder, or the file where the source names one.
    fetch: Callable[[Source], Path] | None = None
    #: Tells how far loading is, 0 to 1, and at what.
    report: Callable[..., None] = lambda fraction, stage="loading": None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request ready for the queue: its inputs, what each costs, and which others it may be batched with."""

    values: Sequence[Any]
    tokens: Sequence[int]
    key: Hashable = ()
    #: The answers as they travel, where no batch is needed for them: then nothing is queued.
    answers: Any = None
    #: Equal for values of equal answers, which are then computed once and may be kept; None when that is not known.
    identities: Sequence[Hashable] | None = None
    #: Work in each value, in a unit of the family's own, where it is not its tokens.
    costs: Sequence[float] | None = None
    #: Makes one answer per input of the caller's out of the values' outputs, where that is not one each.
    join: Callable[[list[Any]], list[Any]] | None = None


@dataclass(frozen=True, slots=True)
class BatchHints:
    """How the queue before a model forms batches, as the loaded model wants it."""

    #: Tokens in one batch; None for the installation's setting.
    batch_tokens: int | None = None
    #: True when all inputs of a batch are made as long as the longest.
    pads: bool = False
    #: Batches, or streamed values, that it takes at once, each in a thread of its own.
    parallel: int = 1
    #: Cost that a streaming model gets through in a second, as measured while it was loaded; None when unknown.
    speed: float | None = None


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
    #: Read once the model is loaded.
    pace: BatchHints

    def load(self, setup: Setup) -> Mapping[str, Any]:
        """Loads the model; what it returns is told to whoever asks about the model."""

    def prepare(self, ability: str, items: Sequence[Any], params: Mapping[str, Any]) -> Prepared:
        """Checks and encodes one request, off the event loop when large; raises BadRequest for that caller alone."""

    def run(self, batch: Sequence[Any]) -> Sequence[Any]:
        """As many answers as inputs; an input that cannot be answered may have a ClusterError for an answer.

        Called in as many threads at once as `pace` says."""

    def pack(self, outputs: list[Any], params: Mapping[str, Any]) -> Any:
        """One caller's answers as they travel: what he asked for, arrays stacked to one array."""

    def set_threads(self, threads: int) -> None:
        """How many cores it may use from now on."""


class Progress(Protocol):
    """One value under way, as the family that works on it sees it. Usable from any thread."""

    def check(self) -> None:
        """Raises once nobody waits for the answer any more; called at every step, so that work ends with the wish."""

    def tell(self, fraction: float, stage: str, step: int = 0, steps: int = 0) -> None:
        """How far this value is."""

    def show(self, preview: bytes) -> None:
        """Something to look at before the answer is there."""


class Unwatched:
    """The course of a value that nobody asked for, such as an example."""

    def check(self) -> None:
        pass

    def tell(self, fraction: float, stage: str, step: int = 0, steps: int = 0) -> None:
        pass

    def show(self, preview: bytes) -> None:
        pass


class Stepped(Family, Protocol):
    """A family that works on each value by itself for seconds, in a thread of its own, instead of on batches.

    What several of them can share is its own affair: their threads may meet inside of it.
    """

    def stream(self, value: Any, course: Progress) -> Any:
        """The answer to one value."""


#: Where wishes that an earlier version stored say that a family is.
MOVED = {f"deployments.{package}": f"deployments.text.{package}" for package in ("embedding", "rerank", "classify")}


def load_family(path: str) -> type[Family]:
    """The class named `module:Class`."""
    module, _, name = path.partition(":")
    package = ".".join(module.split(".")[:2])
    module = MOVED.get(package, package) + module.removeprefix(package)
    found: type[Family] = getattr(importlib.import_module(module), name)
    return found


def path_of(family: type[Family]) -> str:
    return f"{family.__module__}:{family.__qualname__}"
