"""Requests on their way through the queue before a model, and their inputs, of which several may want the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable
from typing import Any

from cluster import errors
from cluster.calls import is_batch


class Ticket:
    """One request: its inputs are answered together, in order, or fail together."""

    __slots__ = (
        *("deadline", "done", "is_batch", "key", "left", "outputs", "owner", "queued_at", "started_at", "tokens"),
        "waiting",
    )

    def __init__(self, owner: str, key: Hashable, count: int, deadline: float, done: asyncio.Future[list[Any]]) -> None:
        self.owner = owner
        #: It may wait behind others.
        self.is_batch = is_batch(owner)
        #: Only equal keys share a batch.
        self.key = key
        self.outputs: list[Any] = [None] * count
        self.left = count
        self.deadline = deadline
        self.done = done
        self.queued_at = time.perf_counter()
        self.started_at = 0.0
        #: What of it is not yet in a batch, the next to go at the end.
        self.waiting: list[Item] = []
        #: The tokens of what waits.
        self.tokens = 0

    def settle(self, index: int, output: Any) -> None:
        self.outputs[index] = output
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result(self.outputs)

    def run_out(self, seconds: float) -> None:
        self.fail(errors.DeadlineExceeded(f"The request's {seconds:.0f} s ran out."))

    def fail(self, error: Exception) -> None:
        if self.done.done():
            return
        if not isinstance(error, errors.ClusterError):
            error = errors.InferenceFailed(f"{type(error).__name__}: {error}")
        self.done.set_exception(error)


class Item:
    """One input on its way to the model, for everybody who asked for the same."""

    __slots__ = ("claims", "identity", "tokens", "value")

    def __init__(self, value: Any, tokens: int, identity: Hashable, ticket: Ticket, index: int) -> None:
        self.value = value
        self.tokens = tokens
        #: Equal for inputs that have equal answers; None when that is not known.
        self.identity = identity
        #: The requests that want it, and at which place; it waits among the inputs of the first.
        self.claims = [(ticket, index)]

    def settle(self, output: Any) -> None:
        for ticket, index in self.claims:
            if isinstance(output, errors.ClusterError):
                named = f"Input {index}: {output.message}"
                ticket.fail(type(output)(named, output.param, output.retry_after_s))
            else:
                ticket.settle(index, output)

    def fail(self, error: Exception) -> None:
        for ticket, _ in self.claims:
            ticket.fail(error)
