"""What an ingress must know to serve by itself: the supervisor is not on the path of a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.facts import SentFacts
from cluster.keys import Key
from cluster.status import ModelState


@dataclass(frozen=True, slots=True)
class WorkerAddress:
    """Where a worker is: its node, and the path of its socket there when it has one."""

    node: str = ""
    socket: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """A worker that may be sent work."""

    worker: str
    limit: int | None = None
    address: WorkerAddress = WorkerAddress()


@dataclass(frozen=True)
class ServedModel:
    """What serves under a name, and on what it runs: what clients ask about a model."""

    type: str = ""
    name: str = ""
    engine: str = ""
    format: str = ""
    family: str = ""
    hub: str = ""
    revision: str | None = None
    quantization: str = "none"
    languages: tuple[str, ...] = ()
    #: What the catalogue says of it; the loaded model's own facts come before that.
    max_tokens: int | None = None
    dimensions: int | None = None
    controlnet: object = None
    replica: int = 1
    address: str = ""
    cards: tuple[int, ...] = ()


@dataclass(frozen=True)
class ModelRoutes:
    """What an ingress knows of one model."""

    uid: str
    abilities: tuple[str, ...]
    workers: tuple[Route, ...]
    state: ModelState
    reason: str = ""
    launched: ServedModel = ServedModel()
    facts: SentFacts = SentFacts()
    aliases: tuple[str, ...] = ()
    #: It has served before: requests wait for its next worker instead of failing at once.
    recovering: bool = False

    @property
    def max_tokens(self) -> int | None:
        """The longest input that it reads."""
        return self.launched.max_tokens if self.facts.max_tokens is None else self.facts.max_tokens


@dataclass(frozen=True)
class Snapshot:
    """What an ingress knows: enough to go on while the supervisor is away."""

    version: int
    models: Mapping[str, ModelRoutes]
    handles: Mapping[str, Any]
    keys: tuple[Key, ...]
    #: Of the supervisor that made it; commands to workers carry it.
    epoch: int = 0
    #: Calls that end workers, by the model's uid and their fingerprint; every ingress refuses them.
    poison: tuple[tuple[str, str], ...] = ()
