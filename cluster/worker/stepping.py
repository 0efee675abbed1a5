"""Requests that a model works on for seconds each: which gets the next free thread, how far each is, when it ends.

It knows nothing of models: `stream` is a function of one value and its progress, called in a thread of its own. All of
this is used from one event loop; the threads report only through the `board` of their request.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, Literal

from cluster import errors
from cluster.calls import OpenCall, View
from cluster.versioned import Versioned
from cluster.worker.family import Progress
from cluster.worker.lanes import ahead_of, in_turn
from cluster.worker.load import Backlog
from cluster.worker.open_requests import OpenRequest, OpenRequests

Stream = Callable[[Any, Progress], Any]

#: How many ended requests are remembered for `watch`.
ENDED = 1000
#: Every fourth start is for the request that has waited longest, however large it is.
OLDEST_EVERY = 4
#: Weight of the newest answer in the measured speed.
NEWEST = 0.3
#: A model counts as hung when it reports nothing for this many times its longest silence so far.
PATIENCE = 10.0
#: Silence that is always allowed, since nothing is reported while a large picture is decoded.
SILENT_S = 120.0


class SteppedRequest(OpenRequest):
    def __init__(self, owner: str, values: Sequence[Any], costs: Sequence[float]) -> None:
        super().__init__(owner, values, [max(cost, 0.0) for cost in costs])
        self.fractions = [0.0] * len(values)
        self.stopped: errors.ClusterError | None = None
        self.board = Versioned(View(0, "waiting"))
        self._lock = threading.Lock()

    @property
    def cost(self) -> float:
        return sum(self.costs)

    @property
    def cost_left(self) -> float:
        return sum(cost * (1 - done) for cost, done in zip(self.costs, self.fractions, strict=True))

    def advance(self, index: int, fraction: float, stage: str, step: int = 0, steps: int = 0) -> None:
        with self._lock:
            self.fractions[index] = min(max(fraction, self.fractions[index]), 1.0)
            total = self.cost
            done = 1 - self.cost_left / total if total else sum(self.fractions) / len(self.fractions)
            self._amend(state="running", fraction=done, stage=stage, step=step, steps=steps)

    def show(self, preview: bytes) -> None:
        with self._lock:
            self._amend(previews=(*self.board.value.previews, preview))

    def close(self, state: Literal["done", "failed", "cancelled"]) -> None:
        with self._lock:
            fraction = 1.0 if state == "done" else self.board.value.fraction
            self._amend(state=state, stage=state, fraction=fraction, previews=(), eta_s=0.0)

    def _amend(self, **changes: Any) -> None:
        self.board.amend(lambda view: view._replace(version=view.version + 1, **changes))


class _Progress:
    def __init__(self, request: SteppedRequest, index: int, alive: Callable[[], None]) -> None:
        self._request = request
        self._index = index
        self._alive = alive

    def check(self) -> None:
        if self._request.stopped is not None:
            raise type(self._request.stopped)(*self._request.stopped.args)

    def tell(self, fraction: float, stage: str, step: int = 0, steps: int = 0) -> None:
        self._alive()
        self._request.advance(self._index, fraction, stage, step, steps)

    def show(self, preview: bytes) -> None:
        self._request.show(preview)


class SteppedQueue:
    def __init__(self, stream: Stream, executor: Executor, *, parallel: int, speed: float | None = None) -> None:
        """`parallel`: values worked on at once. `speed`: cost per second, when it is known before the first answer."""
        self._stream = stream
        self._executor = executor
        self._parallel = parallel
        self.speed = speed
        self.running = 0
        #: No answer of it comes in pieces.
        self.pieces = 0
        self._open: OpenRequests[SteppedRequest] = OpenRequests(self._stop, self._answered)
        self._ended: OrderedDict[str, View] = OrderedDict()
        self._turn = 0
        self._tasks: set[asyncio.Task[None]] = set()
        #: Recently finished cost, and the seconds of work that it took.
        self._done = (speed or 0.0, 1.0 if speed else 0.0)
        self._worked_s = 0.0
        self._since = 0.0
        self._last_sign = time.monotonic()
        self._longest_silence = 0.0

    # ------------------------------------------------------------------------------------------- asked for

    def submit(
        self, values: Sequence[Any], costs: Sequence[float], *, owner: str, seconds_left: float
    ) -> SteppedRequest:
        """Refuses at once a request that cannot be done in time, so that nobody waits for it."""
        self._open.refuse_blocked(owner)
        request = SteppedRequest(owner, values, costs)
        self._refuse_late(request, seconds_left)
        self._open.add(request, seconds_left)
        self._start()
        return request

    def cancel(self, owner: str, block_s: float = 0.0) -> bool:
        """Drops that request, waiting or running, and refuses its id for `block_s` seconds."""
        return self._open.cancel(owner, block_s)

    async def watch(self, owner: str, seen: int, wait_s: float) -> View | None:
        """How far that request is, as soon as that is not version `seen`; None when this worker does not know it."""
        request = self._open.newest(owner)
        if request is None:
            return self._ended.get(owner.partition("#")[0])
        _, view = await request.board.newer(seen, wait_s)
        return view._replace(eta_s=self._eta(request)) if view.state in ("waiting", "running") else view

    def under_way(self) -> list[OpenCall]:
        calls = []
        for request in self._open:
            view = request.board.value
            eta_s = self._eta(request)
            calls.append(request.told(view._replace(previews=(), eta_s=eta_s), len(view.previews)))
        return calls

    @property
    def waiting(self) -> int:
        return self._open.waiting

    @property
    def backlog(self) -> Backlog:
        waiting = sum(sum(request.costs[request.begun :]) for request in self._open)
        left = sum(request.cost_left for request in self._open)
        return Backlog(waiting, max(left - waiting, 0.0), self.speed or 0.0, self._open.oldest_s)

    @property
    def is_alive(self) -> bool:
        """Whether the model has reported progress lately, measured by its longest pause between reports so far."""
        return time.monotonic() - self._last_sign < max(SILENT_S, PATIENCE * self._longest_silence)

    # ------------------------------------------------------------------------------------------- decisions

    def _refuse_late(self, request: SteppedRequest, seconds_left: float) -> None:
        if not self.speed:
            return
        alone, needed = request.cost / self.speed, self._eta(request) or 0.0
        if alone > seconds_left:
            raise errors.DeadlineExceeded(
                f"This takes about {alone:.0f} s here, and {seconds_left:.0f} s are allowed: ask for less, or for more "
                "time with x-request-timeout."
            )
        if needed > seconds_left:
            raise errors.Overloaded(
                f"With what is asked for already this would take {needed:.0f} s, and {seconds_left:.0f} s are allowed.",
                retry_after_s=needed - seconds_left,
            )

    def _eta(self, request: SteppedRequest) -> float | None:
        """All open requests share the machine, and each of the others delays this one by at most its own work."""
        if not self.speed:
            return None
        left = request.cost_left
        # Those of batches that have not begun wait for it.
        begun = [other for other in self._open if other.begun]
        others = {*ahead_of(request.owner, self._open), *begun} - {request}
        return (left + sum(min(left, other.cost_left) for other in others)) / self.speed

    def _next(self) -> SteppedRequest | None:
        """The request with least left to do, but every few turns the oldest, so that large ones get done as well."""
        waiting = self._open.with_waiting
        if not waiting:
            return None
        self._turn += 1
        waiting = in_turn(waiting, self._turn, time.perf_counter())
        return waiting[0] if self._turn % OLDEST_EVERY == 0 else min(waiting, key=lambda request: request.cost_left)

    # ------------------------------------------------------------------------------------------------ work

    def _start(self) -> None:
        while self.running < self._parallel and (request := self._next()) is not None:
            index = request.begin()
            if not self.running:
                self._since = time.monotonic()
                self._sign()
            self.running += 1
            task = asyncio.get_running_loop().create_task(self._work(request, index))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self, request: SteppedRequest, index: int) -> None:
        progress = _Progress(request, index, self._sign)
        loop = asyncio.get_running_loop()
        try:
            output = await loop.run_in_executor(self._executor, self._stream, request.values[index], progress)
        # Whatever a model library raises is the end of this request and of no other.
        except Exception as error:
            self._stop(request, errors.as_ours(error))
        else:
            self._settle(request, index, output)
        finally:
            self.running -= 1
            if not self.running:
                self._worked_s += time.monotonic() - self._since
            self._start()

    def _settle(self, request: SteppedRequest, index: int, output: Any) -> None:
        request.fractions[index] = 1.0
        self._measure(request.costs[index])
        request.answer(index, output)

    def _measure(self, cost: float) -> None:
        """Updates the cost per second. Costs and seconds are summed before they are divided: of two values that end at
        the same moment, the second would otherwise seem to have taken no time."""
        now = time.monotonic()
        seconds = self._worked_s + now - self._since
        self._worked_s, self._since = 0.0, now
        self._done = ((1 - NEWEST) * self._done[0] + cost, (1 - NEWEST) * self._done[1] + seconds)
        if self._done[0] and self._done[1] > 0:
            self.speed = self._done[0] / self._done[1]

    def _stop(self, request: SteppedRequest, error: errors.ClusterError) -> None:
        """Those of its values that are worked on end at their next step."""
        request.stopped = request.stopped or error
        request.fail(error)

    def _answered(self, request: SteppedRequest) -> None:
        if request.done.cancelled():
            self._stop(request, errors.RequestCancelled("Nobody waits for it any more."))
        failed = request.stopped
        cancelled = isinstance(failed, (errors.RequestCancelled, errors.DeadlineExceeded))
        request.close("done" if failed is None else "cancelled" if cancelled else "failed")
        self._ended[request.owner.partition("#")[0]] = request.board.value
        while len(self._ended) > ENDED:
            self._ended.popitem(last=False)

    def _sign(self) -> None:
        now = time.monotonic()
        self._longest_silence = max(self._longest_silence, now - self._last_sign if self.running else 0.0)
        self._last_sign = now
