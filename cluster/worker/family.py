"""The contract between a worker and the code that can run one kind of model.

A family is one class with `Options`, `example`, `load`, `prepare` and `pack`, and with the method of the contract that
it inherits: `Batched.run`, `Stepped.stream` or `Talking.begin`. Torch and other model libraries are imported inside
`load` and nowhere else, so that whoever only names a family does not wait for them.
"""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar

from pydantic import BaseModel

from cluster.catalog.entry import Entry, Source
from cluster.facts import ModelFacts
from cluster.launch import LaunchSpec
from cluster.settings import Settings
from cluster.value import JsonObject
from cluster.weights.inventory import Inventory
from cluster.weights.memory import BYTES_OF_DTYPE, MemoryPlan, encoder_plan, weight_bytes
from cluster.weights.present import inventory_of

#: Assumed for a model of unknown size until its weights are on disk and it has been measured.
UNKNOWN_WEIGHT_BYTES = 2 * 2**30

#: The parameters of a request; what they mean depends on the ability that is asked for.
Params: TypeAlias = Mapping[str, Any]
Measured = TypeVar("Measured")


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
    #: What part of its card it may use, and how many cards there are.
    card_share: float = 1.0
    cards: int = 0
    quantization: str | None = None
    #: Names of the options that the launch gave; the others are the entry's or the family's defaults.
    asked: frozenset[str] = frozenset()
    #: As the launch asked for it.
    engine: str | None = None
    #: Folder of the installation: what a machine made of a model's weights is kept there.
    home: Path = Path()
    allow_pickle: bool = False
    remote_code: bool = False
    #: Of the installation.
    settings: Settings = field(default_factory=Settings)
    #: What was measured of this model when it was loaded before in this process, and need not be again.
    measured: dict[str, Any] = field(default_factory=dict)
    #: Finds or downloads further weights; returns their folder, or the file where the source names one.
    fetch: Callable[[Source], Path] | None = None
    #: Tells how far loading is, 0 to 1, and at what.
    report: Callable[..., None] = lambda fraction, stage="loading": None

    def measure(self, what: str, measured: Callable[[], Measured]) -> Measured:
        """Of the model with as many threads, once in a process."""
        key = f"{what} with {self.threads} threads"
        if key not in self.measured:
            self.measured[key] = measured()
        value: Measured = self.measured[key]
        return value


@dataclass(frozen=True)
class Prospect:
    """All a family gets to say what a launch would take, before anything is loaded."""

    spec: LaunchSpec
    entry: Entry
    source: Source
    #: Validated `Options` of the family.
    options: Any
    settings: Settings
    on_card: bool

    def weights(self, source: Source | None = None, *, allow_pickle: bool = True) -> Inventory | None:
        """Those of the model, or of another source, as far as they are on this machine."""
        return inventory_of(source or self.source, self.settings, allow_pickle)


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
    #: What each value brings into an engine with a scheduler of its own beside its cost, such as pixels of pictures.
    luggage: Sequence[float] = ()
    #: Makes one answer per input of the caller's out of the values' outputs, where that is not one each.
    join: Callable[[list[Any]], list[Any]] | None = None

    @property
    def work(self) -> Sequence[float]:
        """What each value costs."""
        return self.tokens if self.costs is None else self.costs


@dataclass(frozen=True, slots=True)
class BatchHints:
    """How the queue before a model forms batches, as the loaded model wants it."""

    #: Tokens in one batch; None for the installation's setting.
    batch_tokens: int | None = None
    #: True when all inputs of a batch are made as long as the longest.
    pads: bool = False
    #: Batches, or streamed values, that it takes at once, each in a thread of its own; of an engine with a scheduler of
    #: its own, the values that it has at once.
    parallel: int = 1
    #: Cost of the values that such an engine can have at once, in the unit of `Prepared.costs`; None for no limit.
    room: int | None = None
    #: As much of `Prepared.luggage` as it can have at once. What has none does not wait for what has.
    luggage: float = inf
    #: Cost that a streaming model gets through in a second, as measured while it was loaded; None when unknown.
    speed: float | None = None


@dataclass(frozen=True)
class Example:
    """What a family warms up on, and what a probe runs."""

    items: Sequence[Any]
    params: Params = field(default_factory=dict)
    ability: str = ""


class Progress(Protocol):
    """One value under way, as the family that works on it sees it. Usable from any thread."""

    def check(self) -> None:
        """Raises once nobody waits for the answer any more. Called at every step, so that unwanted work ends soon."""

    def tell(self, fraction: float, stage: str, step: int = 0, steps: int = 0) -> None:
        """How far this value is."""

    def show(self, preview: bytes) -> None:
        """Something to look at before the answer is there."""


class Unwatched:
    """The progress of a value that no caller waits for, such as an example."""

    def check(self) -> None:
        pass

    def tell(self, fraction: float, stage: str, step: int = 0, steps: int = 0) -> None:
        pass

    def show(self, preview: bytes) -> None:
        pass


class Family(Protocol):
    """What every family has. One that can be served inherits `Batched`, `Stepped` or `Talking`, which say how it works
    on requests."""

    contract: ClassVar[str]
    #: Names under which `model_engine` finds it.
    engines: ClassVar[tuple[str, ...]]
    #: What its models can be asked for: embed, rerank, ...
    abilities: ClassVar[tuple[str, ...]]
    #: The formats of weights that it reads, where a type's families differ in that.
    formats: ClassVar[tuple[str, ...] | None] = None
    #: Options of other engines of the type that it has not, and why.
    lacks: ClassVar[Mapping[str, str]] = {}
    #: Launch options; a launch with an unknown one is refused.
    Options: ClassVar[type[BaseModel]]
    #: Read when the model is loaded, so that `load` may choose another for that very model.
    example: Example
    #: A request of the largest size that is allowed, where the example repeated is not as much. Read when the model is
    #: loaded.
    largest: Example | None = None
    #: Whether the model is in a process of its own, whose memory is not measured: then what was planned is claimed.
    is_elsewhere: ClassVar[bool] = False
    #: Read when the model is loaded.
    pace: BatchHints = BatchHints()

    @classmethod
    def reads(cls, source: Source) -> bool:
        """Whether it can load weights of that format, as far as the catalogue tells. What is in a folder is looked at
        later."""
        return cls.formats is None or source.hub == "local" or source.format.lower() in cls.formats

    @classmethod
    def suits(cls, source: Source) -> bool:
        """Whether it is to load them where nobody said which engine does."""
        return cls.reads(source)

    @classmethod
    def missing(cls, settings: Settings) -> str:
        """What this installation lacks for it."""
        return ""

    @classmethod
    def needed(cls, prospect: Prospect) -> Source:
        """Refuses a launch that cannot be loaded, while its caller waits; returns the model's source less what the
        launch has no use for."""
        return prospect.source

    @classmethod
    def plan(cls, prospect: Prospect) -> MemoryPlan:
        """The memory that it would take; without more of the family's own, that of an encoder."""
        inventory = prospect.weights()
        dtype = cls.number_format(prospect)
        # fp32 is what encoders compute in on CPU unless asked otherwise, whatever their files are stored in.
        size = weight_bytes(inventory, BYTES_OF_DTYPE[dtype]) if inventory is not None else None
        total = size or prospect.entry.weight_bytes or UNKNOWN_WEIGHT_BYTES
        return encoder_plan(prospect.entry.family, dtype, total, on_card=prospect.on_card)

    @classmethod
    def number_format(cls, prospect: Prospect) -> str:
        """That of the weights in memory."""
        dtype = getattr(prospect.options, "torch_dtype", "auto")
        return ("bfloat16" if prospect.on_card else "float32") if dtype == "auto" else str(dtype)

    @classmethod
    def smaller(cls, prospect: Prospect) -> Iterator[JsonObject]:
        """Changes of the launch with which it takes less memory, the least harmful first."""
        if "torch_dtype" in cls.Options.model_fields and cls.number_format(prospect) == "float32":
            yield {"torch_dtype": "bfloat16"}

    @abstractmethod
    def load(self, setup: Setup) -> ModelFacts:
        """Loads the model; returns what clients are told about it."""

    @abstractmethod
    def prepare(self, ability: str, items: Sequence[Any], params: Params) -> Prepared:
        """Checks and encodes one request, off the event loop when large; raises BadRequest for that caller alone."""

    @abstractmethod
    def pack(self, outputs: list[Any], params: Params) -> object:
        """One caller's answers in the form that is sent to him: what he asked for, arrays stacked to one array."""

    def set_threads(self, threads: int) -> None:
        """How many cores it may use from now on. Does nothing for families that start no threads of their own."""
        return None  # Without it a type checker takes the method for abstract.

    def unload(self) -> None:
        """Ends the threads and processes that it has started and that would not end without it. It is not used any more
        and does not compute; the memory of the model comes back when nothing is left that knows it."""
        return None


class Batched(Family, Protocol):
    """A family that computes many inputs at once, of one caller or of several: embedding, rerank, classify."""

    contract: ClassVar[Literal["batched"]] = "batched"

    @abstractmethod
    def run(self, batch: Sequence[Any]) -> Sequence[object]:
        """As many answers as inputs; for an input that cannot be answered the answer may be a ClusterError.

        Called from as many threads at once as `pace.parallel` says."""


class Stepped(Family, Protocol):
    """A family that works on each value by itself, for seconds, in a thread of its own: pictures, pages.

    Values that are computed at the same time may still share passes of the model; the family arranges that itself.
    """

    contract: ClassVar[Literal["stepped"]] = "stepped"

    @abstractmethod
    def stream(self, value: Any, progress: Progress) -> object:
        """The answer to one value. Called from as many threads at once as `pace.parallel` says."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The last that a `Talking` family says about a value."""

    #: The output, which `pack` takes, or the reason why there is none.
    outcome: object | Exception


#: Takes the next piece of one value's answer, which is of the family's own making, or `Finished`.
Tell: TypeAlias = Callable[[object], None]
#: Ends the work on one value.
Stop: TypeAlias = Callable[[], None]


class Talking(Family, Protocol):
    """A family whose engine has a scheduler of its own, as those of language models do.

    The engine takes new values at any time, decides itself which of them share a step, and answers in pieces. So there
    is no batch of ours before it: the worker only limits how many values are under way, which `pace.parallel` and
    `pace.room` say, and carries the pieces.
    """

    contract: ClassVar[Literal["talking"]] = "talking"

    @abstractmethod
    def begin(self, value: Any, tell: Tell) -> Stop:
        """Gives one value to the engine and returns at once, before anything of it is computed.

        Called on the event loop that serves requests, while other values are under way; a value that the engine
        refuses raises here, and then nothing is told of it.

        `tell` may be called from any thread, also before `begin` has returned, but never by two threads at once for
        one value. It returns quickly and does not raise. It is called in the order of the answer, at most once per step
        of the engine, with everything that this step added; the last call, and only that one, is given a `Finished`.

        The `Stop` that is returned may be called from any thread, any number of times, also after the end. It returns
        at once. The engine then drops the value at its next step and still tells `Finished`, with
        `errors.RequestCancelled` unless the value was done before. So whoever began a value waits for its `Finished`
        and can rely on it that nothing of it is left in the engine afterwards.
        """


#: What a worker can be given.
AnyFamily: TypeAlias = Batched | Stepped | Talking
CONTRACTS = (Batched, Stepped, Talking)


def refuse_without_contract(family: type[object]) -> None:
    """A class says how it works by what it inherits, not by the methods that it happens to have."""
    if not any(contract in family.__mro__ for contract in CONTRACTS):
        names = ", ".join(contract.__name__ for contract in CONTRACTS)
        raise TypeError(
            f"{family.__module__}:{family.__qualname__} cannot be served: a family inherits one of {names} from "
            f"{__name__}, which says how it works on requests."
        )


#: Packages that have moved, as wanted models name them that an earlier version stored.
MOVED = {f"deployments.{package}": f"deployments.text.{package}" for package in ("embedding", "rerank", "classify")}


def load_family(path: str) -> type[AnyFamily]:
    """The class named `module:Class`."""
    module, _, name = path.partition(":")
    package = ".".join(module.split(".")[:2])
    module = MOVED.get(package, package) + module.removeprefix(package)
    family: type[AnyFamily] = getattr(importlib.import_module(module), name)
    refuse_without_contract(family)
    return family


def path_of(family: type[Family]) -> str:
    return f"{family.__module__}:{family.__qualname__}"
