"""Requests whose values a model works on one by one: which have not been answered, whose each is, and when it ends.

All of this is used from one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from cluster import errors
from cluster.calls import OpenCall, View
from cluster.keys import request_of
from cluster.worker.owners import BlockedIds, is_of


class OpenRequest:
    """One request: its values are answered together, in order, or fail together."""

    def __init__(self, owner: str, values: Sequence[Any], costs: Sequence[float]) -> None:
        self.owner = owner
        self.values = values
        self.costs = costs
        self.done: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self.begun = 0
        self.queued_at = time.perf_counter()
        self.started_at = 0.0
        self._outputs: list[Any] = [None] * len(values)
        self._left = len(values)

    @property
    def waiting(self) -> int:
        """How many of its values have not begun."""
        return len(self.values) - self.begun

    def told(self, view: View, previews: int = 0) -> OpenCall:
        return OpenCall(self.owner, time.perf_counter() - self.queued_at, view, previews)

    def begin(self) -> int:
        """The place of its next value, which now begins."""
        self.started_at = self.started_at or time.perf_counter()
        self.begun += 1
        return self.begun - 1

    def answer(self, index: int, output: object) -> None:
        self._outputs[index] = output
        self._left -= 1
        if not self._left and not self.done.done():
            self.done.set_result(self._outputs)

    def fail(self, error: errors.ClusterError) -> None:
        """Its values that have not begun never begin."""
        self.begun = len(self.values)
        if not self.done.done():
            self.done.set_exception(error)


R = TypeVar("R", bound=OpenRequest)


class OpenRequests(Generic[R]):
    """Those of one queue, the oldest first."""

    def __init__(self, stop: Callable[[R, errors.ClusterError], None], answered: Callable[[R], None]) -> None:
        """`stop` ends a request before its time; `answered` is called for each once, however it ended."""
        self._stop = stop
        self._answered = answered
        self._requests: dict[R, None] = {}
        self._blocked = BlockedIds()

    def __iter__(self) -> Iterator[R]:
        return iter(self._requests)

    def refuse_blocked(self, owner: str) -> None:
        self._blocked.refuse(owner)

    def add(self, request: R, seconds_left: float) -> None:
        self._requests[request] = None
        late = errors.DeadlineExceeded(f"The request's {seconds_left:.0f} s ran out.")
        timer = asyncio.get_running_loop().call_later(seconds_left, self._stop, request, late)
        request.done.add_done_callback(lambda _: self._remove(request, timer))
        if not request.values:
            request.done.set_result([])

    def cancel(self, owner: str, block_s: float) -> bool:
        """Drops that request, waiting or begun, and refuses its id for `block_s` seconds; True when there was one."""
        self._blocked.add(owner, block_s)
        dropped = [request for request in self if is_of(request.owner, owner) and not request.done.done()]
        for request in dropped:
            self._stop(request, errors.RequestCancelled(f"The request has been cancelled: {request_of(owner)}"))
        return bool(dropped)

    def newest(self, owner: str) -> R | None:
        return next((request for request in reversed(self._requests) if is_of(request.owner, owner)), None)

    @property
    def with_waiting(self) -> list[R]:
        """Those of which some value has not begun."""
        return [request for request in self if request.waiting and not request.done.done()]

    @property
    def waiting(self) -> int:
        """How many values have not begun."""
        return sum(request.waiting for request in self)

    @property
    def oldest_s(self) -> float:
        """How long the oldest has waited of those of which no value has begun."""
        queued_at = next((request.queued_at for request in self if not request.begun and request.values), None)
        return 0.0 if queued_at is None else time.perf_counter() - queued_at

    def _remove(self, request: R, timer: asyncio.TimerHandle) -> None:
        timer.cancel()
        self._requests.pop(request, None)
        self._answered(request)
