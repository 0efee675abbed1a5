"""What an ingress must know to serve by itself: the supervisor is not on the path of a request."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate
from typing import Any, NamedTuple

from cluster.facts import SentFacts
from cluster.keys import Key
from cluster.status import RESTING, ModelState


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


class NameKind(IntEnum):
    """Where a name of a model comes from; of several models with one name, the lowest is meant."""

    UID = 0
    ALIAS = 1
    ENTRY = 2
    HUB = 3


class ModelName(NamedTuple):
    """A name that a model answers to, in small letters."""

    text: str
    kind: NameKind
    weight: float | None = None


class Namesake(NamedTuple):
    """A model that answers to some name."""

    uid: str
    kind: NameKind
    weight: float | None = None


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
    #: As the catalogue spells it; None where a model has only one.
    size: str | None = None
    languages: tuple[str, ...] = ()
    #: What the catalogue says of it; the loaded model's own facts come before that.
    max_tokens: int | None = None
    dimensions: int | None = None
    controlnet: object = None
    #: When it was launched; seconds since 1970.
    created: int = 0
    replica: int = 1
    #: Between how many replicas it follows its load, as fields of `ReplicaBounds`.
    bounds: Mapping[str, float] | None = None
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
    #: What it answers to besides its uid.
    names: tuple[ModelName, ...] = ()
    #: It has served before: requests wait for its next worker instead of failing at once.
    recovering: bool = False
    #: It is being started because of a request: requests wait for it as long as they may take.
    waking: bool = False
    #: How long that takes, as far as it is known.
    wake_s: float | None = None
    #: How long after its last request it sleeps; 0 for never.
    sleep_s: float = 0.0
    #: The workers of a new version that is on trial, and the part of the requests that they get.
    canary: tuple[str, ...] = ()
    canary_share: float = 0.0

    @property
    def is_asleep(self) -> bool:
        """Also where it only dozes."""
        return self.state in RESTING

    @property
    def rests(self) -> bool:
        """It sleeps, or is being woken."""
        return self.is_asleep or self.waking

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


@dataclass(frozen=True)
class Amendment:
    """What differs between two versions of a snapshot."""

    since: int
    version: int
    #: The models that are new or other than before, and the handles of all their workers.
    models: Mapping[str, ModelRoutes]
    handles: Mapping[str, Any]
    gone: tuple[str, ...] = ()
    #: None where they are the same.
    keys: tuple[Key, ...] | None = None
    epoch: int = 0
    poison: tuple[tuple[str, str], ...] = ()


#: Of an ingress that was told nothing yet.
NOTHING_TOLD = Snapshot(-1, {}, {}, ())


def amended(before: Snapshot, amendment: Amendment) -> Snapshot:
    models, handles = dict(before.models), dict(before.handles)
    for uid in (*amendment.models, *amendment.gone):
        for route in models[uid].workers if uid in models else ():
            handles.pop(route.worker, None)
    for uid in amendment.gone:
        models.pop(uid, None)
    keys = before.keys if amendment.keys is None else amendment.keys
    models.update(amendment.models)
    handles.update(amendment.handles)
    return Snapshot(amendment.version, models, handles, keys, amendment.epoch, amendment.poison)


def difference(before: Snapshot, after: Snapshot) -> Amendment:
    """What turns the one into the other; handles are the same as long as their workers are."""
    models = {uid: model for uid, model in after.models.items() if before.models.get(uid) != model}
    workers = [route.worker for model in models.values() for route in model.workers]
    handles = {worker: after.handles[worker] for worker in workers if worker in after.handles}
    gone = tuple(uid for uid in before.models if uid not in after.models)
    keys = None if after.keys == before.keys else after.keys
    return Amendment(before.version, after.version, models, handles, gone, keys, after.epoch, after.poison)


def answers_to(model: ModelRoutes) -> Iterator[tuple[str, Namesake]]:
    """What a model answers to in small letters, its uid among it."""
    for name in (ModelName(model.uid.lower(), NameKind.UID), *model.names):
        yield name.text, Namesake(model.uid, name.kind, name.weight)


def meant(
    namesakes: Sequence[Namesake],
    is_able: Callable[[str], bool],
    serves: Callable[[str], bool],
    share: Callable[[], float],
) -> tuple[str, ...]:
    """The uid that a name means: of those that can do what is asked, the one whose claim to the name is best. Several
    uids where that is not decided. `share`, from 0 to 1, is where a request falls among models that share a name."""
    able = [namesake for namesake in namesakes if is_able(namesake.uid)] or namesakes
    best = min((namesake.kind for namesake in able), default=None)
    equals = [namesake for namesake in able if namesake.kind == best]
    if len(equals) < 2 or any(namesake.weight is None for namesake in equals):
        return tuple(namesake.uid for namesake in equals)
    # Those without a worker leave their share to the others.
    sharing = [namesake for namesake in equals if serves(namesake.uid)] or equals
    sums = list(accumulate(namesake.weight or 0.0 for namesake in sharing))
    return (sharing[min(bisect_right(sums, share() * sums[-1]), len(sharing) - 1)].uid,)
