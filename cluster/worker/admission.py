"""Who may join the queue before a model, and who goes next: overload and fairness, as functions of plain numbers.

A request is refused when it would wait longer than is worth its while, so that a caller learns at once what he would
learn too late. After the first such refusal the queue counts as overloaded for a while, and stricter rules hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import inf
from typing import NamedTuple

from cluster import errors

#: One batch in so many is led by the request that waits longest, so that large requests end as well. While overloaded
#: it is every second one, because then there is always a shorter request that would go first.
OLDEST_EVERY = 4
OLDEST_EVERY_OVERLOADED = 2
#: A request may wait this many times as long as it takes to compute, if that is more than `max_wait_s`.
WORTH_WAITING = 8
#: How long overload lasts after a refusal. An empty queue does not end it: refused callers wait, and then all come back
#: at once.
OVERLOADED_S = 30.0
#: While overloaded, this part of `max_wait_s` is allowed. A longer queue would answer nobody sooner.
OVERLOADED_WAIT = 0.25
#: While overloaded, requests up to this many times as large count as ahead of a new one. Otherwise a stream of slightly
#: shorter requests would keep overtaking one that was let in as the next.
EQUALS = 4
#: Requests of fewer tokens than this on average may be more than `max_wait_from`.
BURST_TOKENS = 512


@dataclass(frozen=True, slots=True)
class QueueLimits:
    #: How many tokens may wait.
    queue_tokens: int = 2_000_000
    #: How long a request may wait; None for as long as it takes.
    max_wait_s: float | None = None
    #: `max_wait_s` holds when so many requests wait, or more of them if they have fewer than `burst_tokens` on average.
    max_wait_from: int = 0
    burst_tokens: int = BURST_TOKENS

    @property
    def of_batch(self) -> QueueLimits:
        """For requests that may wait up to their own deadline."""
        return replace(self, max_wait_s=inf if self.max_wait_s is not None else None)


class QueueState(NamedTuple):
    """The queue as a new request finds it."""

    requests: int
    tokens: int
    #: Tokens per second that the model computes; 0 until it has computed.
    speed: float
    is_overloaded: bool = False


class Refusal(NamedTuple):
    error: errors.Overloaded
    #: The queue is overloaded from now on, for `OVERLOADED_S`.
    begins_overload: bool = False


def refusal(
    tokens: int, seconds_left: float, queue: QueueState, sizes: Iterable[int], limits: QueueLimits
) -> Refusal | None:
    """Why a request of so many tokens may not join the queue. `sizes` has the tokens of each request that waits.

    A request larger than the whole queue is let in when nothing waits; otherwise it could never run.
    """
    if not queue.requests:
        return None
    if queue.tokens + tokens > limits.queue_tokens:
        wait = queue.tokens / queue.speed if queue.speed else 1.0
        return Refusal(
            errors.Overloaded(
                f"The queue is full: {queue.tokens} tokens wait, at most {limits.queue_tokens} may.",
                retry_after_s=max(wait, 1.0),
            )
        )
    if not queue.speed or limits.max_wait_s is None:
        return None
    allowed, speed, largest = limits.max_wait_s, queue.speed, tokens
    if queue.is_overloaded:
        allowed *= OVERLOADED_WAIT
        # The other batches are for those who wait longest.
        speed *= 1 - 1 / OLDEST_EVERY_OVERLOADED
        largest *= EQUALS
    worth = inf if _is_burst(tokens, queue, limits) else max(allowed, WORTH_WAITING * tokens / queue.speed)
    most = min(seconds_left, worth)
    if queue.tokens <= most * speed:
        return None
    wait = sum(size for size in sizes if size <= largest) / speed
    if wait <= most:
        return None
    error = errors.Overloaded(
        f"The request would wait {wait:.1f} s, {most:.1f} s is allowed.", retry_after_s=max(wait, 1.0)
    )
    # A caller who has no time himself says nothing about how much there is to do.
    return Refusal(error, begins_overload=wait > worth and not queue.is_overloaded)


def _is_burst(tokens: int, queue: QueueState, limits: QueueLimits) -> bool:
    """Callers who send a few short texts each and wait for the answer are many, but are soon served."""
    few = queue.requests < limits.max_wait_from
    return not queue.is_overloaded and (few or queue.tokens + tokens <= limits.max_wait_from * limits.burst_tokens)


def is_for_the_oldest(turn: int, is_overloaded: bool) -> bool:
    """Whether the batch of this turn is led by the request that waits longest, instead of the shortest."""
    return turn % (OLDEST_EVERY_OVERLOADED if is_overloaded else OLDEST_EVERY) == 0


def leaders_share(batch_tokens: int, is_for_oldest: bool, has_others: bool, is_overloaded: bool) -> int:
    """How much of a batch its leader may fill first: one that leads for its age alone leaves half to shorter ones."""
    return batch_tokens // 2 if is_for_oldest and has_others and not is_overloaded else batch_tokens
