"""What is said of a model that could not be loaded; where memory ran out, how much was there and what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Literal

from cluster import errors
from cluster.cards import Card, CardUser
from cluster.launch import Needs
from cluster.status import Claim

Stage = Literal["was loaded", "computed its largest request"]

#: So many others are named.
MOST_NAMED = 3
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
#: As torch says it of a card, and of main memory.
_ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+ ?[KMGT]?i?B|\d+ bytes)")


def is_out_of_memory(error: BaseException) -> bool:
    """Of a card or of main memory. Torch's class is told by its name, since torch is imported by models only."""
    message = str(error)
    # On CPU it is a plain RuntimeError, whose words depend on the system.
    is_host = isinstance(error, MemoryError) or ("Allocator" in message and "memory" in message)
    return isinstance(error, errors.OutOfMemory) or type(error).__name__ == "OutOfMemoryError" or is_host


def bytes_asked(error: BaseException) -> int:
    """What it could not have; 0 where it does not say."""
    match = _ASKED.search(str(error))
    if match is None:
        return 0
    number, unit = re.fullmatch(r"([\d.]+) ?(\w+)", match[1]).groups()  # type: ignore[union-attr]
    return int(float(number) * _UNITS.get(unit[0], 1))


def why_not_loaded(
    uid: str, error: Exception, stage: Stage, claim: Claim, taken: Needs, full: Sequence[Card] = ()
) -> errors.ClusterError:
    """`full`: its cards, where they were full of others' memory."""
    if is_out_of_memory(error):
        return crowded_out(uid, error, claim, taken, full) if full else out_of_memory(uid, error, stage, claim, taken)
    if isinstance(error, errors.ClusterError):
        return error
    return errors.LoadFailed(f"{uid} could not be loaded: {type(error).__name__}: {error}")


def out_of_memory(uid: str, error: BaseException, stage: Stage, claim: Claim, taken: Needs) -> errors.LoadFailed:
    """`taken`: the most that the worker had until then."""
    on_card = bool(claim.cards)
    where, had, claimed = (
        ("its card", taken.card_bytes, claim.card_bytes)
        if on_card
        else ("main memory", taken.memory_bytes, claim.memory_bytes)
    )
    match = _ASKED.search(str(error))
    more = f" and asked for {match[1]} more" if match else ""
    return errors.LoadFailed(
        f"{uid} could not be loaded: {where} had no room left when the model {stage}. It took {_gib(had)}{more}, and "
        f"{_gib(claimed)} were claimed. Launch it with more (memory={_ample(had, claimed)}), or smaller: "
        "`cluster launch --dry-run` names options with which it takes less."
    )


def crowded_out(uid: str, error: BaseException, claim: Claim, taken: Needs, full: Sequence[Card]) -> errors.LoadFailed:
    """It had less than it may have: who has the rest is to blame, and more memory for the launch would not help."""
    stories = []
    for number, (card, (index, _)) in enumerate(zip(full, claim.cards, strict=False)):
        free = (card.total_bytes or 0) - (card.used_bytes or 0)
        users = [user for user in card.users if os.getpid() not in (user.pid, *user.parents)]
        users.sort(key=lambda user: -(user.bytes or 0))
        named = ", ".join(map(_named, users[:MOST_NAMED]))
        stories.append(
            f"{'' if number else 'of '}card {index} ({card.name or 'unknown'}), {_gib(card.total_bytes or 0)} large, "
            f"{_gib(free)} were free, and others had {named or 'what the driver does not tell'}"
        )
    asked_bytes = bytes_asked(error)
    more = f" and asked for {_gib(asked_bytes)} more" if asked_bytes else ""
    return errors.LoadFailed(
        f"{uid} could not be loaded, also at a second try: it took {_gib(taken.card_bytes)} of its card{more}, and "
        f"{_gib(claim.card_bytes)} were claimed; {'; '.join(stories)}. End what does not belong there, or launch it on "
        "another card."
    )


def _named(user: CardUser) -> str:
    size = f" {_gib(user.bytes)}" if user.bytes else ""
    return f"pid {user.pid} ({user.name or 'of another container or user'}){size}"


def _ample(had: int, claimed: int) -> str:
    """Half as much again, so that the next try is not the next failure."""
    return f"{-(-3 * max(had, claimed) // (2 * 2**30))}GiB"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
