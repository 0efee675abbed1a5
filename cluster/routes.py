"""What an ingress must know to serve without asking anybody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.keys import Key
from cluster.status import ModelState


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


@dataclass(frozen=True)
class Snapshot:
    """All that an ingress needs to go on by itself."""

    version: int
    models: Mapping[str, ModelRoutes]
    handles: Mapping[str, Any]
    keys: tuple[Key, ...]
    #: The node of each worker, and its socket there.
    sockets: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    #: Of the supervisor that made it; workers obey whoever commands with it.
    epoch: int = 0
    #: Calls that end workers, by the model's uid and their fingerprint; every ingress refuses them.
    poison: tuple[tuple[str, str], ...] = ()
