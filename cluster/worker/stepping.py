"""Requests that a model works on for seconds each: which gets the next free thread, how far each is, when it ends.

Knows nothing of models: `stream` is a function of one value and its progress, called in a thread of its own. Used from
one event loop; threads speak to it through the boards of their jobs.
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
from cluster.calls import View
from cluster.keys import request_of
from cluster.versioned import Versioned
from cluster.worker.family import Progress

Stream = Callable[[Any, Progress], Any]

#: One start in so many is for the request that waits longest, whatever it costs.
OLDEST_EVERY = 4
#: Ends of requests that can still be asked for, and ids that are refused for a while.
REMEMBERED = 1000
#: How much the newest answer counts in the measured speed.
NEWEST = 0.3
#: A model counts as at work while it is silent for less than so many times its longest silence so far.
PATIENCE = 10.0
#: Silence that is always allowed: nothing is reported while a large picture is decoded.
SILENT_S = 120.0


class SteppedRequest:
    """One request: its values are answered together, in order, or fail together."""

    def __init__(self, owner: str, values: Sequence[Any], costs: Sequence[float], done: asyncio.Future[Any]) -> None:
        self.owner = owner
        self.values = values
        self.costs = [max(cost, 0.0) for cost in costs]
        self.done = done
        self.outputs: list[Any] = [None] * len(values)
        self.fractions = [0.0] * len(values)
        self.left = len(values)
        self.begun = 0
        self.queued_at = time.perf_counter()
        self.started_at = 0.0
        self.stopped: errors.ClusterError | None = None
        self.board = Versioned(View(0, "waiting"))
        self._lock = threading.Lock()

    @property
    def cost(self) -> float:
        return sum(self.costs)

    @property
    def cost_left(self) -> float:
        return sum(cost * (1 - done) for cost, done in zip(self.costs, self.fractions, strict=True))

    def is_of(self, owner: str) -> bool:
        """An owner is `<request>#<call>`, or `<request>#<part>#<call>`; what it begins with means all its calls."""
        return self.owner == owner or self.owner.startswith(f"{owner}#")

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
    def __init__(self, job: SteppedRequest, index: int, alive: Callable[[], None]) -> None:
        self._job = job
        self._index = index
        self._alive = alive

    def check(self) -> None:
        if self._job.stopped is not None:
            raise type(self._job.stopped)(*self._job.stopped.args)

    def tell(self, fraction: float, stage: str, step: int = 0, steps: int = 0) -> None:
        self._alive()
        self._job.advance(self._index, fraction, stage, step, steps)

    def show(self, preview: bytes) -> None:
        self._job.show(preview)


class SteppedQueue:
    def __init__(self, stream: Stream, executor: Executor, *, parallel: int, speed: float | None = None) -> None:
        """`parallel`: values worked on at once. `speed`: cost per second, when it is known before the first answer."""
        self._stream = stream
        self._executor = executor
        self._parallel = parallel
        self.speed = speed
        self.running = 0
        #: Jobs that have not been answered, the oldest first.
        self._open: dict[SteppedRequest, None] = {}
        self._ended: OrderedDict[str, View] = OrderedDict()
        self._blocked: dict[str, float] = {}
        self._turn = 0
        self._tasks: set[asyncio.Task[None]] = set()
        #: Cost that was got through lately, and the seconds it took.
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
        loop = asyncio.get_running_loop()
        self._refuse_blocked(owner)
        job = SteppedRequest(owner, values, costs, loop.create_future())
        self._refuse_late(job, seconds_left)
        self._open[job] = None
        timer = loop.call_later(seconds_left, self._expire, job, seconds_left)
        job.done.add_done_callback(lambda _: self._answered(job, timer))
        if not values:
            job.done.set_result([])
        self._start()
        return job

    def cancel(self, owner: str, block_s: float = 0.0) -> bool:
        """Drops that request, waiting or running; for `block_s` none of that id is taken."""
        if block_s > 0:
            self._blocked[owner] = time.monotonic() + block_s
            while len(self._blocked) > REMEMBERED:
                del self._blocked[next(iter(self._blocked))]
        dropped = [job for job in self._open if job.is_of(owner) and not job.done.done()]
        for job in dropped:
            self._stop(job, errors.RequestCancelled(f"The request has been cancelled: {request_of(owner)}"))
        return bool(dropped)

    async def watch(self, owner: str, seen: int, wait_s: float) -> View | None:
        """How far that request is, as soon as it is not what was seen; None when it is not known here."""
        job = next((job for job in reversed(self._open) if job.is_of(owner)), None)
        if job is None:
            return self._ended.get(owner.partition("#")[0])
        _, view = await job.board.newer(seen, wait_s)
        return view._replace(eta_s=self._eta(job)) if view.state in ("waiting", "running") else view

    @property
    def waiting(self) -> int:
        return sum(len(job.values) - job.begun for job in self._open)

    @property
    def is_alive(self) -> bool:
        """Whether values under way show that they are, by what such a model has been seen to need between two signs."""
        return time.monotonic() - self._last_sign < max(SILENT_S, PATIENCE * self._longest_silence)

    # ------------------------------------------------------------------------------------------- decisions

    def _refuse_blocked(self, owner: str) -> None:
        now = time.monotonic()
        self._blocked = {id: until for id, until in self._blocked.items() if until > now}
        request = owner.partition("#")[0]
        if request in self._blocked:
            left = self._blocked[request] - now
            raise errors.RequestCancelled(
                f"The request {request_of(owner)} was aborted; its id is refused for {left:.0f} s more."
            )

    def _refuse_late(self, job: SteppedRequest, seconds_left: float) -> None:
        if not self.speed:
            return
        alone, needed = job.cost / self.speed, self._eta(job) or 0.0
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

    def _eta(self, job: SteppedRequest) -> float | None:
        """All that is open shares the machine, so each other job delays this one by no more than its own work."""
        if not self.speed:
            return None
        left = job.cost_left
        return (left + sum(min(left, other.cost_left) for other in self._open if other is not job)) / self.speed

    def _next(self) -> SteppedRequest | None:
        """The request with least to do; every few turns the one that waits longest, so that large ones get done."""
        waiting = [job for job in self._open if job.begun < len(job.values) and not job.done.done()]
        if not waiting:
            return None
        self._turn += 1
        return waiting[0] if self._turn % OLDEST_EVERY == 0 else min(waiting, key=lambda job: job.cost_left)

    # ------------------------------------------------------------------------------------------------ work

    def _start(self) -> None:
        while self.running < self._parallel and (job := self._next()) is not None:
            index, job.begun = job.begun, job.begun + 1
            job.started_at = job.started_at or time.perf_counter()
            if not self.running:
                self._since = time.monotonic()
                self._sign()
            self.running += 1
            task = asyncio.get_running_loop().create_task(self._work(job, index))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self, job: SteppedRequest, index: int) -> None:
        progress = _Progress(job, index, self._sign)
        loop = asyncio.get_running_loop()
        try:
            output = await loop.run_in_executor(self._executor, self._stream, job.values[index], progress)
        # Whatever a model library raises is the end of this request and of no other.
        except Exception as error:
            self._stop(job, _as_known(error))
        else:
            self._settle(job, index, output)
        finally:
            self.running -= 1
            if not self.running:
                self._worked_s += time.monotonic() - self._since
            self._start()

    def _settle(self, job: SteppedRequest, index: int, output: Any) -> None:
        job.outputs[index] = output
        job.fractions[index] = 1.0
        job.left -= 1
        self._measure(job.costs[index])
        if not job.left and not job.done.done():
            job.done.set_result(job.outputs)

    def _measure(self, cost: float) -> None:
        """Cost per second of work. Both are added up before they are divided: values that end together are half of a
        second's work each, not all of it in a moment."""
        now = time.monotonic()
        seconds = self._worked_s + now - self._since
        self._worked_s, self._since = 0.0, now
        self._done = ((1 - NEWEST) * self._done[0] + cost, (1 - NEWEST) * self._done[1] + seconds)
        if self._done[0] and self._done[1] > 0:
            self.speed = self._done[0] / self._done[1]

    def _expire(self, job: SteppedRequest, seconds: float) -> None:
        self._stop(job, errors.DeadlineExceeded(f"The request's {seconds:.0f} s ran out."))

    def _stop(self, job: SteppedRequest, error: errors.ClusterError) -> None:
        """Its values that wait are never begun; those under way end at their next step."""
        job.stopped = job.stopped or error
        job.begun = len(job.values)
        if not job.done.done():
            job.done.set_exception(error)

    def _answered(self, job: SteppedRequest, timer: asyncio.TimerHandle) -> None:
        timer.cancel()
        self._open.pop(job, None)
        if job.done.cancelled():
            job.stopped = job.stopped or errors.RequestCancelled("Nobody waits for it any more.")
            job.begun = len(job.values)
        failed = job.stopped
        cancelled = isinstance(failed, (errors.RequestCancelled, errors.DeadlineExceeded))
        job.close("done" if failed is None else "cancelled" if cancelled else "failed")
        self._ended[job.owner.partition("#")[0]] = job.board.value
        while len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)

    def _sign(self) -> None:
        now = time.monotonic()
        self._longest_silence = max(self._longest_silence, now - self._last_sign if self.running else 0.0)
        self._last_sign = now


def _as_known(error: Exception) -> errors.ClusterError:
    if isinstance(error, errors.ClusterError):
        return error
    return errors.InferenceFailed(f"{type(error).__name__}: {error}")
