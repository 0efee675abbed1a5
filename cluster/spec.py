"""The values that cross processes, each declared once.

A `LaunchSpec` is what a person asked for, an `Entry` is a catalogue row, a `Wanted` is the wish that is stored
(the spec with everything looked up), a `ModelStatus` is what can be told of a model at this moment.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from cluster import errors
from cluster.names import cut, quoted

UID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def is_uid(text: str) -> bool:
    """Whether it can name a model; `-rep<number>` at its end names a replica of one."""
    return UID_PATTERN.fullmatch(text) is not None and re.search(r"-rep\d+$", text) is None


#: Sent by Xinference's own client and command line with every launch of every type, whatever the model.
ALWAYS_SENT = ("n_worker", "enable_thinking", "trust_remote_code")

#: What Xinference's clients send as null or its default and this server has no use for.
ACCEPTED_WHEN_EMPTY = ("enable_virtual_env", "virtual_env_packages", "virtual_env_find_links", "peft_model_config")


class Value(BaseModel):
    """A pydantic value that refuses fields it does not know."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


# ---------------------------------------------------------------------------------------------- catalogue


class Source(Value):
    """One place that has the weights."""

    hub: Literal["huggingface", "modelscope", "package", "local"]
    #: Hub repository, import name of the package that ships them, or a folder.
    id: str
    #: Commit or tag; None where no pinned one is known, then what was resolved is recorded beside the weights.
    revision: str | None = None
    #: Folder, or the one file, inside the repository or package.
    path: str = ""
    #: Patterns of files that a launch has no use for, e.g. `text_encoder_3/*`.
    exclude: tuple[str, ...] = ()
    #: Which of several precisions, e.g. fp16; where it is not there, the plain files.
    variant: str = ""
    format: str = "pytorch"
    quantizations: tuple[str, ...] = ("none",)


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
    #: Needs code from its repository; launches only where that is allowed by name.
    remote_code: bool = False
    #: Bytes of the weights when known without looking at them.
    weight_bytes: int | None = None
    description: str = ""
    #: Defaults for the family's launch options.
    options: dict[str, Any] = Field(default_factory=dict)
    #: What only the model's own type reads (dimensions, prompts, pipeline classes, ...).
    facts: dict[str, Any] = Field(default_factory=dict)
    builtin: bool = True


# ------------------------------------------------------------------------------------------------- launch


def _as_cards(value: Any) -> Any:
    """`0,1`, `[0, 1]` and `0` as card numbers; anything else is for pydantic to refuse."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    cards = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if any(isinstance(card, bool) for card in cards):
        raise ValueError("gpu_idx takes card numbers")
    return cards


def _possible_share(value: float | str | None) -> float | str | None:
    if isinstance(value, float):
        if not 0 < value < math.inf:
            raise ValueError("n_gpu must be above 0, 'auto', or null for CPU")
        if value > 1 and value != int(value):
            raise ValueError("n_gpu above 1 must be a whole number")
    return value


def _parsed_share(value: Any) -> Any:
    if isinstance(value, str) and value.lower() in ("none", "null", "cpu", ""):
        return None
    if isinstance(value, bool):
        raise ValueError("n_gpu is a number, 'auto' or null")
    return value


#: Card numbers, in any of the ways that people and clients write them.
Cards = Annotated[tuple[int, ...] | None, BeforeValidator(_as_cards)]
#: How many cards, or what part of one; None is CPU.
Gpus = Annotated[float | Literal["auto"] | None, BeforeValidator(_parsed_share), AfterValidator(_possible_share)]


class ReplicaPlace(Value):
    """Where one replica should live, when somebody wants to say so."""

    worker_ip: str | None = None
    n_gpu: Gpus = "auto"
    gpu_idx: Cards = None

    @field_validator("gpu_idx")
    @classmethod
    def _each_card_once(cls, cards: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if cards is not None and (not cards or len(set(cards)) < len(cards)):
            raise ValueError("gpu_idx takes card numbers, each once per replica")
        return cards


class LaunchSpec(Value):
    """What can be asked of a launch. A field here is the CLI flag, the REST field and the client's argument."""

    model_name: str = Field(description="Catalogue name of the model, e.g. bge-m3.")
    model_type: str = Field(default="", description="embedding, rerank, ... Needed only when a name is in two types.")
    model_uid: str | None = Field(default=None, description="Name to serve it under; the model's name by default.")
    model_engine: str | None = Field(default=None, description="Which engine runs it; the model's own by default.")
    model_format: str | None = Field(default=None, description="Weight format, e.g. pytorch.")
    model_size_in_billions: str | int | float | None = Field(
        default=None, description="Size, where a name has several."
    )
    quantization: str | None = Field(default=None, description="Quantisation, where a model has several.")
    model_path: str | None = Field(default=None, description="Folder with the weights instead of a download.")
    download_hub: Literal["huggingface", "modelscope"] | None = Field(default=None, description="Where to download.")
    replica: int = Field(default=1, ge=1, le=1000, strict=True, description="How many workers serve it.")
    n_gpu: Gpus = Field(default="auto", description="GPUs per replica: a number, a fraction, auto, or none for CPU.")
    gpu_idx: Cards = Field(default=None, description="Cards to use, e.g. 0,1.")
    n_cpu: float | None = Field(default=None, gt=0, description="Cores to reserve; cores are shared when not given.")
    worker_ip: str | None = Field(default=None, description="Node to use.")
    request_limits: int | None = Field(default=None, ge=0, description="Requests at once per replica; more get 429.")
    memory: str | int | None = Field(
        default=None, description="Memory to claim per replica, e.g. 2GiB; estimated by default."
    )
    replica_config: tuple[ReplicaPlace, ...] | None = Field(default=None, description="One place per replica.")
    envs: dict[str, str] | None = Field(
        default=None, description="Environment variables for the workers: thread counts and the like."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the model's family.")

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, data: Any) -> Any:
        """Any other key at the top level is an option of the family, as Xinference's clients send them."""
        if not isinstance(data, dict):
            return data
        known = {key: value for key, value in data.items() if key in cls.model_fields}
        extra = {key: value for key, value in data.items() if key not in known and key not in ALWAYS_SENT}
        for key in ACCEPTED_WHEN_EMPTY:
            if not extra.get(key, True):
                del extra[key]
        options = known.get("options") or {}
        if not isinstance(options, dict):
            raise ValueError(f"options takes a mapping, not {quoted(options)}")
        known["options"] = {**options, **extra}
        if known.get("model_type") is None:
            known.pop("model_type", None)
        return known

    @field_validator("memory", mode="before")
    @classmethod
    def _a_size(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("memory takes a size such as 2GiB")
        return value

    @field_validator("envs")
    @classmethod
    def _settable(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        for name, text in (value or {}).items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or "\0" in text:
                raise ValueError(f"{name!r} is no environment variable that can be set")
        return value

    @field_validator("model_path")
    @classmethod
    def _real_path(cls, value: str | None) -> str | None:
        if value is not None and "\0" in value:
            raise ValueError("model_path holds a NUL character")
        # An empty one would be the folder that the server was started in.
        return value or None

    @field_validator("replica_config", mode="before")
    @classmethod
    def _flatten_xinference_places(cls, value: Any) -> Any:
        """Xinference nests exactly one device per replica: `{"replica_uid":…,"devices":[{…}]}`."""
        if not isinstance(value, (list, tuple)):
            return value
        places = []
        for place in value:
            if isinstance(place, dict) and "devices" in place:
                devices = place["devices"]
                if not isinstance(devices, list) or len(devices) != 1 or not isinstance(devices[0], dict):
                    raise ValueError("each replica of replica_config takes exactly one device")
                place = devices[0]
            places.append(place)
        return places

    @field_validator("model_uid")
    @classmethod
    def _usable_uid(cls, value: str | None) -> str | None:
        if value is None or value == "":
            return None
        if not UID_PATTERN.fullmatch(value):
            raise ValueError(
                "model_uid takes up to 100 letters, digits, '.', '_' and '-', beginning with a letter or digit"
            )
        if re.search(r"-rep\d+$", value):
            raise ValueError("model_uid must not end in -rep<number>, which names replicas")
        return value

    @model_validator(mode="after")
    def _places_agree(self) -> LaunchSpec:
        if self.gpu_idx is not None and len(self.gpu_idx) % self.replica:
            raise ValueError("Allocated gpu must be a multiple of replica.")
        if self.replica_config is not None:
            if self.gpu_idx is not None or self.worker_ip is not None or self.n_gpu not in ("auto",):
                raise ValueError("replica_config cannot be given together with worker_ip, n_gpu or gpu_idx")
            if len(self.replica_config) != self.replica:
                raise ValueError("replica_config needs one place per replica")
        for index in range(self.replica if self.gpu_idx is not None else 0):
            self.place_of(index)
        return self

    def place_of(self, index: int) -> ReplicaPlace:
        """Where the replica of that index should live; replicas added by scaling have no cards of their own."""
        if self.replica_config is not None and index < len(self.replica_config):
            return self.replica_config[index]
        cards = None
        if self.gpu_idx is not None and index < self.replica:
            share = len(self.gpu_idx) // self.replica
            cards = self.gpu_idx[index * share : (index + 1) * share]
        return ReplicaPlace(worker_ip=self.worker_ip, n_gpu=self.n_gpu, gpu_idx=cards)


_UNITS = {"": 1, "b": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}


def parse_bytes(text: str | int) -> int:
    """`2GiB`, `500 MB` and `1073741824` in bytes."""
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([kmgt]?)(i?)b?\s*", str(text).lower())
    if not match:
        raise errors.BadOption(f"memory takes a size such as 2GiB or 500MB, not {quoted(text)}.", None, "memory")
    number, unit, binary = match.groups()
    scale = _UNITS[unit] if not binary else 1024 ** ("bkmgt".index(unit or "b"))
    amount = int(float(number) * scale)
    if amount < 1:
        raise errors.BadOption(f"memory must be more than nothing, not {quoted(text)}.", None, "memory")
    return amount


class Wanted(Value):
    """A wish: what is stored, and all that is stored, of a launched model."""

    uid: str
    generation: int = 1
    spec: LaunchSpec
    entry: Entry
    source: Source
    #: `module:Class`; a path, so that the control plane never imports a model type.
    family: str
    abilities: tuple[str, ...]
    #: Bytes each replica is expected to need.
    claim_bytes: int
    #: Seconds since the epoch; told to people, never compared.
    created: float = 0.0
    #: Came from a declared list, which may remove it again.
    declared: bool = False

    @property
    def replica(self) -> int:
        return self.spec.replica


# ------------------------------------------------------------------------------------------ nodes and cards


@dataclass(frozen=True)
class Node:
    """One machine as the control plane sees it."""

    id: str
    ip: str
    cpus: float
    memory_bytes: int
    gpus: int = 0
    #: Memory of one card; None when it cannot be asked, then cards are shared by fraction only.
    card_bytes: int | None = None
    is_head: bool = False
    draining: bool = False
    #: Cards that torch can use; None for all. Only these count where a launch does not ask for a GPU by number.
    usable_gpus: int | None = None

    @property
    def auto_gpus(self) -> int:
        return self.gpus if self.usable_gpus is None else min(self.gpus, self.usable_gpus)

    #: After its memory ran out: what is left for models now, and who holds the rest.
    room_bytes: int | None = None
    room_reason: str = ""


@dataclass(frozen=True)
class Claim:
    """What one worker takes from its node."""

    memory_bytes: int = 0
    #: Card number -> share of it; empty on CPU.
    cards: tuple[tuple[int, float], ...] = ()
    cpus: float = 0.0

    @property
    def gpus(self) -> float:
        return sum(share for _, share in self.cards)


# ------------------------------------------------------------------------------------------------ workers


class WorkerState(StrEnum):
    STARTING = "STARTING"
    LOADING = "LOADING"
    READY = "READY"
    SUSPECT = "SUSPECT"
    DRAINING = "DRAINING"
    FAILED = "FAILED"
    LOST = "LOST"
    GONE = "GONE"


class ModelState(StrEnum):
    """Derived from the workers, never stored."""

    WAITING = "WAITING"
    LOADING = "LOADING"
    READY = "READY"
    DEGRADED = "DEGRADED"
    FAILED = "FAILED"
    STOPPING = "STOPPING"


@dataclass(frozen=True)
class WorkerName:
    """`worker:<uid>:<generation>:<index>-<suffix>`: all that adoption needs, in the actor's name."""

    uid: str
    generation: int
    index: int
    suffix: str

    def __str__(self) -> str:
        return f"worker:{self.uid}:{self.generation}:{self.index}-{self.suffix}"

    @classmethod
    def parse(cls, text: str) -> WorkerName | None:
        match = re.fullmatch(r"worker:([^:]+):(\d+):(\d+)-(\w+)", text)
        return cls(match[1], int(match[2]), int(match[3]), match[4]) if match else None


@dataclass(frozen=True)
class Progress:
    """How far a load is; `fraction` counts the whole way to READY."""

    stage: str = "pending"
    fraction: float = 0.0
    done_bytes: int = 0
    total_bytes: int = 0
    files: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Memory:
    """Of a node, or of the container that it is, as one of its processes sees it."""

    total_bytes: int = 0
    available_bytes: int = 0
    #: What that process and its children hold.
    own_bytes: int = 0
    #: Processes that the kernel ended for want of memory, ever.
    oom_kills: int = 0
    #: Name, pid and bytes of the largest process of others; looked for when memory is short.
    largest: tuple[str, int, int] | None = None


@dataclass(frozen=True)
class Report:
    """What a worker says of itself."""

    phase: Literal["created", "loading", "ready", "failed", "draining", "drained"] = "created"
    progress: Progress = Progress()
    error: Exception | None = None
    log_tail: tuple[str, ...] = ()
    pid: int = 0
    node_id: str = ""
    node_ip: str = ""
    #: Where processes of the same machine reach it without Ray; empty where they cannot.
    socket: str = ""
    cards: tuple[int, ...] = ()
    memory_bytes: int = 0
    memory: Memory = Memory()
    load_seconds: float = 0.0
    about: dict[str, Any] = field(default_factory=dict)


class WorkerStatus(Value):
    id: str
    index: int
    generation: int
    state: WorkerState
    node: str = ""
    address: str = ""
    pid: int = 0
    cards: tuple[int, ...] = ()
    claim_bytes: int = 0
    stage: str = ""
    progress: float = 0.0
    done_bytes: int = 0
    total_bytes: int = 0
    files: tuple[dict[str, Any], ...] = ()
    reason: str = ""
    error_code: str = ""
    restarts: int = 0
    created: float = 0.0


class ModelStatus(Value):
    """What can be told of a model now. `reason` says why it is not READY."""

    uid: str
    state: ModelState
    reason: str = ""
    error_code: str = ""
    log_tail: tuple[str, ...] = ()
    replica: int
    ready: int
    restarts: int = 0
    generation: int
    stage: str = ""
    progress: float = 0.0
    created: float = 0.0
    wanted: Wanted
    workers: tuple[WorkerStatus, ...] = ()
    about: dict[str, Any] = Field(default_factory=dict)
    version: int = 0


class Event(Value):
    ts: float
    level: Literal["INFO", "WARNING", "ERROR"]
    uid: str
    text: str


# ------------------------------------------------------------------------------------------------- inference


class Call(NamedTuple):
    """One caller's request to one worker. A tuple, because it is pickled for every request."""

    id: str
    items: list[Any]
    params: dict[str, Any]
    #: Durations cross processes, instants do not: clocks differ.
    seconds_left: float
    #: Which of the model's abilities is asked for.
    ability: str = ""


class Answer(NamedTuple):
    """`outputs` has one element per item (an array's rows count); `tokens` is what that caller's items cost."""

    outputs: Any
    tokens: int
    queue_ms: float = 0.0
    run_ms: float = 0.0


class View(NamedTuple):
    """How far a request is that takes its time."""

    version: int
    state: Literal["waiting", "running", "done", "failed", "cancelled"]
    #: Of the whole request, 0 to 1.
    fraction: float = 0.0
    stage: str = "waiting"
    step: int = 0
    steps: int = 0
    #: None until it is known how fast the model is.
    eta_s: float | None = None
    #: What can be shown so far, the oldest first.
    previews: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """A worker that may be sent work."""

    worker: str
    limit: int | None = None
    node: str = ""


@dataclass(frozen=True)
class ModelRoutes:
    """All an ingress must know of a model to serve it without asking anybody."""

    uid: str
    abilities: tuple[str, ...]
    workers: tuple[Route, ...]
    state: ModelState
    reason: str = ""
    description: dict[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    #: It has served before: requests wait for its next worker instead of failing at once.
    recovering: bool = False


def folder_under(root: Path, name: str) -> Path:
    """`root/name`, or an error when `name` points outside of `root`."""
    path = real_path(root / name)
    if not path.is_relative_to(real_path(root)):
        raise errors.BadRequest(f"{name!r} leads outside of {root}.")
    return path


def local_path(text: str, option: str = "model_path") -> Path:
    """What a caller wrote, as a whole path; an error where no file can have that name."""
    try:
        text.encode()
        path = Path(text).expanduser().absolute()
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # it may be on another machine
    except (OSError, RuntimeError, ValueError) as error:
        told = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise errors.BadOption(f"{option} {quoted(text)} is no path ({cut(told)}).", None, option) from None
    return path


def real_path(path: Path) -> Path:
    """Where links lead; `Path.resolve` raises for those that lead in a circle."""
    return Path(os.path.realpath(path))
