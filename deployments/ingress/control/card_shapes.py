"""Cards as JSON: how large they are, how full, and of whose processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from typing_extensions import TypedDict

from cluster import keys
from cluster.cards import Card, CardUser
from cluster.keys import Key
from cluster.status import Claim, Node, WorkerName


class CardUserRow(TypedDict):
    #: None where it is what all those have together that the key may not know of.
    pid: int | None
    name: str
    #: None where the driver does not say.
    bytes: int | None
    is_ours: bool
    #: Of a worker that the key may know of.
    model: str | None
    replica: int | None


class CardRow(TypedDict):
    number: int
    name: str
    uuid: str
    #: None where nobody knows, as everywhere below.
    total: int | None
    used: int | None
    claimed: int | None
    foreign: int
    #: Who has that; empty for a key for some models.
    foreign_by: str
    #: From 0 to 1.
    load: float | None
    processes: list[CardUserRow]


#: Model and replica, by the name of a worker.
Replicas = Mapping[str, tuple[str, int]]


def card_rows(node: Node, claim: Claim, replicas: Replicas | None = None, key: Key | None = None) -> list[CardRow]:
    """`replicas`: those that may be named. A key for some models is told of the processes of their workers, and of all
    others only what they have together."""
    shares: dict[int, float] = {}
    for number, share in claim.cards:
        shares[number] = shares.get(number, 0.0) + share
    unknown = (Card(total_bytes=node.card_bytes),) * max(node.gpus - len(node.cards), 0)
    return [
        _card_row(number, card, shares.get(number, 0.0), replicas or {}, key)
        for number, card in enumerate((*node.cards, *unknown))
    ]


def _card_row(number: int, card: Card, share: float, replicas: Replicas, key: Key | None) -> CardRow:
    is_limited = keys.models_of(key) is not None
    return {
        "number": number,
        "name": card.name,
        "uuid": card.uuid,
        "total": card.total_bytes,
        "used": card.used_bytes,
        "claimed": None if card.total_bytes is None else round(share * card.total_bytes),
        "foreign": card.foreign_bytes,
        "foreign_by": "" if is_limited else card.foreign,
        "load": card.load,
        "processes": list(_user_rows(card.users, replicas, key)),
    }


def _user_rows(users: Sequence[CardUser], replicas: Replicas, key: Key | None) -> Iterator[CardUserRow]:
    hidden = [user for user in users if not _may_know(key, user)]
    yield from (_user_row(user, replicas) for user in users if user not in hidden)
    if hidden:
        amounts = [user.bytes for user in hidden if user.bytes is not None]
        together = sum(amounts) if amounts else None
        yield {"pid": None, "name": "", "bytes": together, "is_ours": False, "model": None, "replica": None}


def _may_know(key: Key | None, user: CardUser) -> bool:
    if keys.models_of(key) is None:
        return True
    name = WorkerName.parse(user.worker)
    return name is not None and keys.sees(key, name.uid)


def _user_row(user: CardUser, replicas: Replicas) -> CardUserRow:
    model, replica = replicas.get(user.worker, (None, None))
    return {
        "pid": user.pid,
        "name": user.name,
        "bytes": user.bytes,
        "is_ours": user.is_ours,
        "model": model,
        "replica": replica,
    }
