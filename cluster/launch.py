"""A launch as people write it, and the wanted model that it becomes: all that is stored of a model."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from cluster import errors
from cluster.catalog.entry import Entry, Source
from cluster.durations import idle_limit_s, keep_alive_s
from cluster.names import ALIAS_PATTERN, UID_PATTERN, quoted
from cluster.node_labels import NodeLabels
from cluster.value import Value


def _as_cards(value: Any) -> Any:
    """`0,1`, `[0, 1]` and `0` as card numbers; pydantic refuses anything else."""
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


def _as_percent(value: Any) -> Any:
    """`10`, `"10"` and `"10%"`; pydantic refuses anything else."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        value = value.strip().removesuffix("%").strip()
    try:
        percent = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        percent = math.nan
    if not 0 <= percent < 100:
        raise ValueError(f"canary takes a percentage from 0 to below 100, such as 10%, not {quoted(value)}")
    return percent


def _place_on_device(fields: dict[str, Any]) -> None:
    """`device="cpu"` or `"cuda:1"`, as libraries name devices, as the fields for it; any other stays an option, to be
    refused."""
    device = fields["options"].get("device", "")
    match = re.fullmatch(r"(cpu|auto|gpu|cuda)?(?::(\d{1,3}))?", str("" if device is None else device).lower())
    if match is None or "device" not in fields["options"] or (match[2] and match[1] not in ("gpu", "cuda")):
        return
    fields["options"] = {name: value for name, value in fields["options"].items() if name != "device"}
    if match[1] == "cpu":
        fields["n_gpu"] = None
    elif match[2] and fields.get("gpu_idx") is None:
        fields["gpu_idx"] = (int(match[2]),)


def _spread_bounds(fields: dict[str, Any]) -> None:
    """`replica={"min": 0, "max": 4}` as the fields for it. A model that follows its load begins with what it has at
    least, unless it is said otherwise."""
    if isinstance(bounds := fields.get("replica"), dict):
        del fields["replica"]
        if unknown := sorted(map(str, bounds.keys() - BOUNDS)):
            raise ValueError(f"replica takes a number, or an object with {', '.join(BOUNDS)}, not {quoted(unknown[0])}")
        fields |= {BOUNDS[name]: value for name, value in bounds.items()}
    least = fields.get("min_replica")
    if fields.get("replica") is None and isinstance(least, int) and least > 1:
        fields["replica"] = least


#: Card numbers, in any of the forms that people and clients write.
Cards = Annotated[tuple[int, ...] | None, BeforeValidator(_as_cards)]


def _as_priority(value: Any) -> Any:
    """`low`, `normal` and `high`, and numbers also as text, as numbers."""
    text = value.strip().lower() if isinstance(value, str) else value
    if isinstance(text, str) and re.fullmatch(r"[+-]?\d{1,6}", text):
        text = int(text)
    rank = PRIORITIES.get(text, text) if isinstance(text, str) else text
    if isinstance(rank, bool) or not isinstance(rank, int):
        raise ValueError(f"priority takes low, normal, high or a whole number, not {quoted(value)}")
    return rank


def _rest_after(fields: dict[str, Any]) -> None:
    """`keep_alive="5m"` as the field for it."""
    keep_alive = fields.pop("keep_alive", None)
    if keep_alive is None or keep_alive == "":
        return
    if fields.get("idle_sleep_s") is not None:
        raise ValueError("keep_alive and idle_sleep_s say the same: give one of them")
    fields["idle_sleep_s"] = idle_limit_s(keep_alive_s(keep_alive))


#: What priorities are called.
PRIORITIES = {"low": -100, "normal": 0, "high": 100}
#: The larger goes first; any number between those that have a name, and beyond them.
Priority = Annotated[int | Literal["low", "normal", "high"], BeforeValidator(_as_priority), Field(ge=-1000, le=1000)]
#: A part of all, in percent, with or without the sign for it.
Percent = Annotated[float | str | None, BeforeValidator(_as_percent)]
#: How many cards, or which part of one; None means CPU.
Gpus = Annotated[float | Literal["auto"] | None, BeforeValidator(_parsed_share), AfterValidator(_possible_share)]


class Alias(Value):
    """A further name of a launched model. Models that give the same one a weight share its requests by it."""

    name: str
    weight: float | None = Field(default=None, gt=0, le=1e6)

    @field_validator("name")
    @classmethod
    def _usable(cls, name: str) -> str:
        if not ALIAS_PATTERN.fullmatch(name):
            raise ValueError("a name takes up to 200 letters, digits and '._-/:@+', beginning with a letter or digit")
        return name


def _as_aliases(value: Any) -> Any:
    """`a,org/b=3`, `["a", "org/b=3"]`, or objects with a name and a weight."""
    if value is None or value == "":
        return ()
    texts = value.split(",") if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)):
        return value
    return tuple(_as_alias(text) if isinstance(text, str) else text for text in texts)


def _as_alias(text: str) -> dict[str, str]:
    name, equals, weight = text.strip().partition("=")
    return {"name": name, "weight": weight} if equals else {"name": name}


#: How long requests may wait on average before a model that follows its load gets another replica.
TARGET_QUEUE_S = 1.0
#: The fields that say so, and how `replica` names them where it is an object.
BOUNDS = {"min": "min_replica", "max": "max_replica", "target_queue_s": "target_queue_s"}


class ReplicaBounds(Value):
    """Between how many replicas a model follows its load, and how long its requests may wait."""

    min: int = Field(ge=0, le=1000, strict=True)
    max: int = Field(ge=1, le=1000, strict=True)
    target_queue_s: float = Field(default=TARGET_QUEUE_S, gt=0, le=3600)

    @property
    def least(self) -> int:
        """Of one that is awake."""
        return max(self.min, 1)

    def nearest(self, replica: int) -> int:
        return min(max(replica, self.least), self.max)


#: The further names of a model, in any of the forms that people and clients write.
Aliases = Annotated[tuple[Alias, ...], BeforeValidator(_as_aliases), Field(max_length=100)]


class ReplicaPlace(Value):
    """Where one replica should run, for launches that choose it."""

    worker_ip: str | None = None
    n_gpu: Gpus = "auto"
    gpu_idx: Cards = None
    node_labels: NodeLabels = ()

    @field_validator("gpu_idx")
    @classmethod
    def _each_card_once(cls, cards: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if cards is not None and (not cards or len(set(cards)) < len(cards)):
            raise ValueError("gpu_idx takes card numbers, each once per replica")
        return cards


class LaunchSpec(Value):
    """The options of a launch. A field here is the CLI flag, the REST field and the client's argument."""

    # Options of the family may stand beside the fields, see `_gather_options`.
    model_config = ConfigDict(json_schema_extra={"additionalProperties": True})

    model_name: str = Field(description="Catalogue name of the model, e.g. bge-m3.")
    model_type: str = Field(
        default="", description="embedding, rerank, ... Needed only if several types have the name."
    )
    model_uid: str | None = Field(default=None, description="Name to serve it under; the model's name by default.")
    aliases: Aliases = Field(
        default=(), description="Further names to answer to, e.g. org/name; name=3 shares a name, by weight."
    )
    model_engine: str | None = Field(
        default=None, description="Engine that runs it, e.g. transformers; the model's own by default."
    )
    model_format: str | None = Field(default=None, description="Weight format, e.g. pytorch.")
    model_size_in_billions: str | int | float | None = Field(default=None, description="Size, if the name has several.")
    quantization: str | None = Field(default=None, description="Quantisation, if the model has several.")
    model_path: str | None = Field(default=None, description="Folder with the weights instead of a download.")
    download_hub: Literal["huggingface", "modelscope"] | None = Field(default=None, description="Hub to download from.")
    replica: int = Field(
        default=1,
        ge=1,
        le=1000,
        strict=True,
        description="How many workers serve it; those to begin with, if they vary.",
    )
    max_replica: int | None = Field(
        default=None, ge=1, le=1000, strict=True, description="As many workers at most, as its load needs."
    )
    min_replica: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        strict=True,
        description="As few workers at least, if max_replica is given: 1 by default; with 0 it sleeps when unused.",
    )
    target_queue_s: float | None = Field(
        default=None,
        gt=0,
        le=3600,
        description=f"Where requests wait for longer, in seconds, it gets more workers; {TARGET_QUEUE_S:g} by default.",
    )
    n_gpu: Gpus = Field(default="auto", description="GPUs per replica: a number, a fraction, auto, or none for CPU.")
    gpu_idx: Cards = Field(default=None, description="Cards to use, e.g. 0,1.")
    n_cpu: float | None = Field(default=None, gt=0, description="Cores to reserve; shared with others by default.")
    worker_ip: str | None = Field(default=None, description="Node to use.")
    node_labels: NodeLabels = Field(
        default=(), description="Labels that a node must have, e.g. gpu=a100,zone=b; zone=b|c for either."
    )
    request_limits: int | None = Field(default=None, ge=0, description="Requests at once per replica; more get 429.")
    memory: str | int | None = Field(
        default=None, description="Memory to claim per replica, e.g. 2GiB; estimated by default."
    )
    idle_sleep_s: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Seconds without a request after which it sleeps, until the next one; 0 for never; "
        "CLUSTER_IDLE_SLEEP_S by default.",
    )
    idle_doze_s: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Seconds without a request after which it drops its weights but keeps its process, which loads "
        "them again sooner; 0 for never; CLUSTER_IDLE_DOZE_S by default.",
    )
    keep_alive: str | float | None = Field(
        default=None,
        description="The same as idle_sleep_s, as Ollama says it: 5m or 300; 0 goes after each request, -1 stays.",
    )
    pinned: bool = Field(default=False, description="Never let it sleep, nor give way to other models.")
    priority: Priority = Field(
        default=0,
        description="Which models rest for others that have no room: those of a lower priority even while they are "
        "used, and never those of a higher one; low, normal, high or a number between -1000 and 1000.",
    )
    asleep: bool = Field(default=False, description="Load it only when the first request comes.")
    canary: Percent = Field(
        default=None,
        description="When it takes the place of another version: the percentage of requests that it gets at first, "
        "e.g. 10%; the other comes back by itself if more of them fail or take longer.",
    )
    replica_config: tuple[ReplicaPlace, ...] | None = Field(default=None, description="Place of each replica.")
    envs: dict[str, str] | None = Field(
        default=None, description="Environment variables of the workers, such as thread counts."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the model's family.")

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, data: Any) -> Any:
        """Any other key at the top level is an option of the family."""
        if not isinstance(data, dict):
            return data
        fields = {key: value for key, value in data.items() if key in cls.model_fields}
        extra = {key: value for key, value in data.items() if key not in fields}
        options = fields.get("options") or {}
        if not isinstance(options, dict):
            raise ValueError(f"options takes a mapping, not {quoted(options)}")
        fields["options"] = {**options, **extra}
        _place_on_device(fields)
        _spread_bounds(fields)
        _rest_after(fields)
        if fields.get("model_type") is None:
            fields.pop("model_type", None)
        return fields

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
                raise ValueError(f"{name!r} is not an environment variable that can be set")
        return value

    @field_validator("model_path")
    @classmethod
    def _real_path(cls, value: str | None) -> str | None:
        if value is not None and "\0" in value:
            raise ValueError("model_path holds a NUL character")
        # An empty path would mean the folder that the server was started in.
        return value or None

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
            if self.node_labels:
                raise ValueError("replica_config cannot be given together with node_labels, each place has its own")
            if len(self.replica_config) != self.replica:
                raise ValueError("replica_config needs one place per replica")
        for index in range(self.replica if self.gpu_idx is not None else 0):
            self.place_of(index)
        return self

    @model_validator(mode="after")
    def _canary_has_a_place(self) -> LaunchSpec:
        """Beside all workers of the old version."""
        if self.canary and (self.gpu_idx is not None or self.replica_config is not None):
            raise ValueError("canary cannot be given together with gpu_idx or replica_config")
        return self

    @model_validator(mode="after")
    def _bounds_agree(self) -> LaunchSpec:
        if self.max_replica is None:
            if self.min_replica is not None or self.target_queue_s is not None:
                raise ValueError("min_replica and target_queue_s need max_replica")
            return self
        bounds = self.bounds
        assert bounds is not None
        if bounds.min > bounds.max:
            raise ValueError(f"min_replica {bounds.min} is above max_replica {bounds.max}")
        if bounds.nearest(self.replica) != self.replica:
            raise ValueError(f"replica {self.replica} is not between {bounds.least} and max_replica {bounds.max}")
        if self.gpu_idx is not None or self.replica_config is not None:
            raise ValueError("max_replica cannot be given together with gpu_idx or replica_config")
        if bounds.min and (self.idle_sleep_s or self.idle_doze_s or self.asleep):
            raise ValueError(
                f"min_replica {bounds.min} keeps it awake: with asleep, idle_sleep_s or idle_doze_s it must be 0"
            )
        if not bounds.min and self.pinned:
            raise ValueError("min_replica 0 lets it sleep: with pinned it must be at least 1")
        return self

    @property
    def rank(self) -> int:
        """The priority as a number."""
        return self.priority if isinstance(self.priority, int) else PRIORITIES[self.priority]

    @property
    def bounds(self) -> ReplicaBounds | None:
        """None where it has as many replicas as were asked for."""
        if self.max_replica is None:
            return None
        least = 1 if self.min_replica is None else self.min_replica
        return ReplicaBounds(min=least, max=self.max_replica, target_queue_s=self.target_queue_s or TARGET_QUEUE_S)

    def place_of(self, index: int) -> ReplicaPlace:
        """Where the replica of that index should run; replicas that scaling adds have no cards of their own."""
        if self.replica_config is not None and index < len(self.replica_config):
            return self.replica_config[index]
        cards = None
        if self.gpu_idx is not None and index < self.replica:
            share = len(self.gpu_idx) // self.replica
            cards = self.gpu_idx[index * share : (index + 1) * share]
        return ReplicaPlace(worker_ip=self.worker_ip, n_gpu=self.n_gpu, gpu_idx=cards, node_labels=self.node_labels)


def priority_text(rank: int) -> str:
    return next((name for name, number in PRIORITIES.items() if number == rank), str(rank))


_UNITS = {"": 1, "b": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}


def parse_bytes(text: str | int) -> int:
    """`2GiB`, `500 MB` and `1073741824` in bytes."""
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([kmgt]?)(i?)b?\s*", str(text).lower())
    if not match:
        raise errors.BadOption(f"memory takes a size such as 2GiB or 500MB, not {quoted(text)}.", "memory")
    number, unit, binary = match.groups()
    scale = _UNITS[unit] if not binary else 1024 ** ("bkmgt".index(unit or "b"))
    amount = int(float(number) * scale)
    if amount < 1:
        raise errors.BadOption(f"memory must be at least one byte, not {quoted(text)}.", "memory")
    return amount


class Needs(Value):
    """The memory that one replica takes of the node that it is placed on."""

    #: Main memory.
    memory_bytes: int
    #: On its cards, all together; 0 where it has none.
    card_bytes: int = 0


class Wanted(Value):
    """A launched model as it is stored; nothing else is stored of it."""

    uid: str
    generation: int = 1
    spec: LaunchSpec
    entry: Entry
    source: Source
    #: `module:Class`; a path, so that the control plane never imports a model type.
    family: str
    abilities: tuple[str, ...]
    #: Main memory that each replica is expected to need where it has no card.
    claim_bytes: int
    #: What it is expected to need where it has one. None if an earlier version stored it, which took `claim_bytes` for
    #: either.
    on_card: Needs | None = None
    #: Seconds since the epoch; told to people, never compared.
    created: float = 0.0
    #: True if it came from a declared list, which may remove it again.
    declared: bool = False

    @property
    def replica(self) -> int:
        return self.spec.replica

    @property
    def least(self) -> int:
        """So many replicas make it READY: what a load needs beyond that comes and goes."""
        return self.replica if self.spec.bounds is None else min(self.replica, self.spec.bounds.least)

    def scaled(self, replica: int) -> Wanted:
        return self.model_copy(update={"spec": self.spec.model_copy(update={"replica": replica})})

    def needs(self, *, on_card: bool) -> Needs:
        if not on_card:
            return Needs(memory_bytes=self.claim_bytes)
        return self.on_card or Needs(memory_bytes=0, card_bytes=self.claim_bytes)
