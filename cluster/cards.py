"""What a node's cards are and who has their memory, as far as a driver tells it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class CardUser:
    """A process that has memory of a card."""

    pid: int
    #: What the system calls it; empty where this machine shows no such process, as from within a container.
    name: str = ""
    #: None where the driver does not say.
    bytes: int | None = None
    #: The processes that have started it, the next one first.
    parents: tuple[int, ...] = ()
    #: It runs within this cluster's Ray.
    is_ours: bool = False
    #: The worker that it belongs to; empty where it belongs to none.
    worker: str = ""


@dataclass(frozen=True)
class Card:
    """A card, or a slice of one that works like a card."""

    name: str = ""
    #: As the driver writes it, such as GPU-… or MIG-…; empty where it is not known.
    uuid: str = ""
    total_bytes: int | None = None
    used_bytes: int | None = None
    #: The part of the last moment in which it computed, from 0 to 1.
    load: float | None = None
    users: tuple[CardUser, ...] = ()
    #: What others have of it, so that no model can, and who they are.
    foreign_bytes: int = 0
    foreign: str = ""


def is_same_card(uuid: str, other: str) -> bool:
    """Torch leaves out the first word of it."""
    return bool(uuid) and _bare(uuid) == _bare(other)


def _bare(uuid: str) -> str:
    return uuid.lower().removeprefix("gpu-").removeprefix("mig-")


#: What is known of a worker's cards now; nothing where no driver tells.
ReadCards = Callable[[], Sequence[Card]]


def no_cards() -> Sequence[Card]:
    return ()


def own_bytes(cards: Sequence[Card]) -> int:
    """What this process and those that it has started have of them."""
    users = [user for card in cards for user in card.users]
    return sum(user.bytes or 0 for user in users if os.getpid() in (user.pid, *user.parents))
