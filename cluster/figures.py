"""What a worker has counted since its process began, and what happened between two such accounts. Pure.

Whoever asks now and then knows all that happened meanwhile, and any number of others may ask as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from cluster.tally import Tally, together


class Doing(NamedTuple):
    """What a worker does now, and what its queue has counted."""

    #: Inputs, or requests where each is worked on by itself, that wait and that are computed.
    waiting: int = 0
    running: int = 0
    #: Pieces of answers that come in pieces: a token each, mostly.
    pieces: int = 0
    #: Inputs that were answered by what was computed for another request, or out of the cache, and those that were
    #: looked for there in vain.
    shared: int = 0
    cache_hits: int = 0
    cache_misses: int = 0


class Figures(NamedTuple):
    #: The requests that have ended, how many of them the model failed or had no room for, and how long they took in the
    #: worker.
    ended: Tally = Tally()
    tokens: int = 0
    batches: int = 0
    batch_items: int = 0
    doing: Doing = Doing()
    #: What the process holds of the main memory.
    memory_bytes: int = 0


class Happened(NamedTuple):
    """To one worker, or to all workers of a model together, within a while."""

    requests: int = 0
    errors: int = 0
    times: tuple[tuple[int, int], ...] = ()
    tokens: int = 0
    batches: int = 0
    batch_items: int = 0
    shared: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    #: As it is at the end.
    waiting: int = 0
    running: int = 0
    memory_bytes: int = 0

    @property
    def is_busy(self) -> bool:
        return bool(self.requests or self.tokens or self.waiting or self.running)

    @property
    def batch(self) -> float:
        """Inputs in a batch on average; where each request is worked on by itself, how many are."""
        return self.batch_items / self.batches if self.batches else float(self.running)

    def quantile_s(self, part: float) -> float | None:
        tally = Tally(self.requests, self.errors, self.times)
        return tally.quantile_s(part) if self.times else None


def between(before: Figures, after: Figures) -> Happened:
    """What a process that has begun anew has counted before is not known."""
    if after.ended.requests < before.ended.requests:
        before = Figures()
    times = dict(after.ended.times)
    for step, count in before.ended.times:
        times[step] = times.get(step, 0) - count
    earlier, now = before.doing, after.doing
    return Happened(
        after.ended.requests - before.ended.requests,
        after.ended.faults - before.ended.faults,
        tuple((step, count) for step, count in sorted(times.items()) if count > 0),
        _more(before.tokens, after.tokens) + _more(earlier.pieces, now.pieces),
        _more(before.batches, after.batches),
        _more(before.batch_items, after.batch_items),
        _more(earlier.shared, now.shared),
        _more(earlier.cache_hits, now.cache_hits),
        _more(earlier.cache_misses, now.cache_misses),
        now.waiting,
        now.running,
        after.memory_bytes,
    )


def _more(before: int, after: int) -> int:
    """A queue that was made anew counts from nought."""
    return after - before if after >= before else after


def all_of(workers: Iterable[Happened]) -> Happened:
    """What happened to several at the same time."""
    parts = list(workers)
    if len(parts) == 1:
        return parts[0]
    tally = together(Tally(part.requests, part.errors, part.times) for part in parts)
    names = [name for name in Happened._fields if name != "times"]
    sums = {name: sum(getattr(part, name) for part in parts) for name in names}
    return Happened(times=tally.times, **sums)


def one_after_another(earlier: Happened, later: Happened) -> Happened:
    """What happened in two whiles; what waits, runs and is held is as it was in the later."""
    counted = all_of([earlier, later])
    return counted._replace(waiting=later.waiting, running=later.running, memory_bytes=later.memory_bytes)
