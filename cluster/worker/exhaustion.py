"""What is said of a model that could not be loaded; where memory ran out, how much was there and what to do."""

from __future__ import annotations

import re
from typing import Literal

from cluster import errors
from cluster.launch import Needs
from cluster.status import Claim

Stage = Literal["was loaded", "computed its largest request"]

#: As torch says it of a card, and of main memory.
_ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+ ?[KMGT]?i?B|\d+ bytes)")


def is_out_of_memory(error: BaseException) -> bool:
    """Of a card or of main memory. Torch's class is told by its name, since torch is imported by models only."""
    message = str(error)
    # On CPU it is a plain RuntimeError, whose words depend on the system.
    is_host = isinstance(error, MemoryError) or ("Allocator" in message and "memory" in message)
    return isinstance(error, errors.OutOfMemory) or type(error).__name__ == "OutOfMemoryError" or is_host


def why_not_loaded(uid: str, error: Exception, stage: Stage, claim: Claim, taken: Needs) -> errors.ClusterError:
    if is_out_of_memory(error):
        return out_of_memory(uid, error, stage, claim, taken)
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


def _ample(had: int, claimed: int) -> str:
    """Half as much again, so that the next try is not the next failure."""
    return f"{-(-3 * max(had, claimed) // (2 * 2**30))}GiB"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
