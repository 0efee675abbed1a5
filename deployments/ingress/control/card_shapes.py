"""Cards as JSON: how large they are, how full, and of whose processes."""

from __future__ import annotations

from collections.abc import Mapping

from typing_extensions import TypedDict

from cluster.cards import Card, CardUser
from cluster.status import Claim, Node


class CardUserRow(TypedDict):
    pid: int
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
    #: Who has that.
    foreign_by: str
    #: From 0 to 1.
    load: float | None
    processes: list[CardUserRow]


#: Model and replica, by the name of a worker.
Replicas = Mapping[str, tuple[str, int]]


def card_rows(node: Node, claim: Claim, replicas: Replicas | None = None) -> list[CardRow]:
    """`replicas`: those that may be named."""
    shares: dict[int, float] = {}
    for number, share in claim.cards:
        shares[number] = shares.get(number, 0.0) + share
    unknown = (Card(total_bytes=node.card_bytes),) * max(node.gpus - len(node.cards), 0)
    return [
        _card_row(number, card, shares.get(number, 0.0), replicas or {})
        for number, card in enumerate((*node.cards, *unknown))
    ]


def _card_row(number: int, card: Card, share: float, replicas: Replicas) -> CardRow:
    return {
        "number": number,
        "name": card.name,
        "uuid": card.uuid,
        "total": card.total_bytes,
        "used": card.used_bytes,
        "claimed": None if card.total_bytes is None else round(share * card.total_bytes),
        "foreign": card.foreign_bytes,
        "foreign_by": card.foreign,
        "load": card.load,
        "processes": [_user_row(user, replicas) for user in card.users],
    }


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
