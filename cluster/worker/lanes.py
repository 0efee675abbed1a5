"""Which requests go first: interactive ones before those of batches, which never starve all the same. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from cluster.calls import is_batch

#: While interactive requests wait, one turn in so many is for a request of a batch that has waited for so long.
BATCH_EVERY = 8
AGED_S = 2.0


class Queued(Protocol):
    owner: str
    #: By `time.perf_counter`.
    queued_at: float


Q = TypeVar("Q", bound=Queued)


def in_turn(waiting: Iterable[Q], turn: int, now: float) -> list[Q]:
    """Of these, the oldest first, the ones of which one may go next."""
    every = list(waiting)
    batch = [each for each in every if is_batch(each.owner)]
    if not batch or len(batch) == len(every):
        return every
    if turn % BATCH_EVERY == 0 and now - batch[0].queued_at >= AGED_S:
        return batch
    return [each for each in every if not is_batch(each.owner)]


def ahead_of(owner: str, waiting: Iterable[Q]) -> list[Q]:
    """Those that a request of that owner may have to wait for."""
    return [each for each in waiting if is_batch(owner) or not is_batch(each.owner)]
