"""How requests reach a family, and their answers come back: one class for each contract that workers serve."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle
from queue import SimpleQueue
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

from cluster import errors
from cluster.calls import Call, OpenCall, View
from cluster.figures import Doing
from cluster.settings import Settings
from cluster.worker.admission import QueueLimits
from cluster.worker.batching import Batcher
from cluster.worker.cache import AnswerCache
from cluster.worker.family import AnyFamily, Batched, Finished, Prepared, Progress, Stepped, Talking, Unwatched
from cluster.worker.load import Backlog
from cluster.worker.metrics import WorkerMetrics
from cluster.worker.open_requests import OpenRequest
from cluster.worker.stepping import SteppedQueue
from cluster.worker.talking import Send, TalkQueue
from cluster.worker.tickets import Item

log = logging.getLogger("cluster.worker.worker")

#: What a warm-up at the largest size may take; a model that needs longer is not measured at it.
MOST_STRAIN_S = 5.0
#: Inputs of one batch at most.
MOST_INPUTS = 1024
#: Of the threads that compute, and of those which a model library starts from them.
MODEL_NICENESS = 5


class Outputs(NamedTuple):
    """Of one request, in order, with the times of `time.perf_counter` at which it was queued and begun."""

    values: list[Any]
    queued_at: float
    started_at: float


class Work(Protocol):
    """Serves a family of one contract. All but `loader`, `warm_up` and `loaded` is for the loop that takes requests."""

    #: Whether small requests are prepared on the event loop; a thread hop would cost more than that.
    prepares_inline: ClassVar[bool]
    #: The thread that loads the model, and later sets how many cores it uses.
    loader: ThreadPoolExecutor
    #: When the model last showed that it computes.
    computed_at: float

    def warm_up(self, prepared: Prepared) -> None:
        """Computes the example, in the thread that loads."""

    def strain(self, prepared: Prepared) -> bool:
        """Computes as much at once as requests can bring about; False where that would take too long."""

    def loaded(self) -> None:
        """Called once the model can serve."""

    async def outputs(self, call: Call, prepared: Prepared, is_alone: bool, send: Send | None = None) -> Outputs:
        """What the family makes of one request. `is_alone`: a worker has ended with it, so it is tried by itself.
        `send` takes the pieces of the answer, where it comes in pieces."""

    def cancel(self, owner: str, block_s: float) -> bool:
        """Drops the work of that request; True when there was any."""

    async def watch(self, owner: str, seen: int, wait_s: float) -> View | None:
        """How far a request is, as soon as it is newer than what was seen; None when it is not known here."""

    def under_way(self) -> Sequence[OpenCall]:
        """The calls in hand of which it can be seen how far they are."""

    def is_busy(self) -> bool:
        """Whether the model computes right now; raises when that has taken too long without a sign of progress."""

    def overdue(self) -> Sequence[str]:
        """The owners of requests that are computed for much longer than is usual."""

    def backlog(self) -> Backlog:
        """What there is to do."""

    def doing(self) -> Doing:
        """The same as it is drawn: how much waits and is computed, and what the queue has counted."""

    def measure(self) -> None:
        """Brings the metrics up to date."""

    def close(self) -> None:
        """Called when its model is to be dropped, with nothing in hand."""


def work_of(family: AnyFamily, name: str, settings: Settings, metrics: WorkerMetrics) -> Work:
    if family.contract == "batched":
        return BatchedWork(family, name, settings, metrics)
    if family.contract == "stepped":
        return SteppedWork(family, name)
    return TalkingWork(family, name, settings)


class BatchedWork:
    """Requests wait in one queue, which gathers inputs of all callers into batches."""

    prepares_inline: ClassVar[bool] = True

    def __init__(self, family: Batched, name: str, settings: Settings, metrics: WorkerMetrics) -> None:
        self._family = family
        self._name = name
        self._settings = settings
        self._metrics = metrics
        self._batcher: Batcher | None = None
        #: Tokens per second of the pass at the end of loading, which is slower than those that follow.
        self._first_speed = 0.0
        self.loader = model_threads(1)
        self.computed_at = float("-inf")

    def warm_up(self, prepared: Prepared) -> None:
        started = time.perf_counter()
        self._run(prepared.values)
        self._first_speed = sum(prepared.tokens) / max(time.perf_counter() - started, 1e-6)

    def strain(self, prepared: Prepared) -> bool:
        pace = self._family.pace
        values, tokens = filled(prepared, pace.batch_tokens or self._settings.batch_tokens)
        if not values or pace.parallel * tokens > MOST_STRAIN_S * self._first_speed:
            return False
        if pace.parallel == 1:
            self._run(values)
            return True
        with model_threads(pace.parallel) as threads:
            for done in [threads.submit(self._run, values) for _ in range(pace.parallel)]:
                done.result()
        return True

    def loaded(self) -> None:
        """The thread that loaded the model also runs it."""

    async def outputs(self, call: Call, prepared: Prepared, is_alone: bool, send: Send | None = None) -> Outputs:
        self.batcher.is_suspicious = is_alone
        ticket = self.batcher.submit(
            prepared.values,
            prepared.tokens,
            key=(call.ability, prepared.key),
            seconds_left=call.seconds_left,
            owner=call.id,
            identities=None if call.params.get("cache") is False else prepared.identities,
        )
        # The queue drops what is late; this bounds what is already running.
        timer = asyncio.get_running_loop().call_later(call.seconds_left + 1, ticket.run_out, call.seconds_left)
        try:
            values = await ticket.done
        finally:
            timer.cancel()
        return Outputs(values, ticket.queued_at, ticket.started_at)

    def cancel(self, owner: str, block_s: float) -> bool:
        return self.batcher.cancel(owner)

    async def watch(self, owner: str, seen: int, wait_s: float) -> View | None:
        return None

    def under_way(self) -> Sequence[OpenCall]:
        """They are over before anybody has looked."""
        return ()

    def is_busy(self) -> bool:
        """A batch that hangs ends the process, so there is nothing to find out by a probe."""
        return self._batcher is not None and self._batcher.busy

    def overdue(self) -> Sequence[str]:
        return self._batcher.overdue() if self._batcher is not None else ()

    def backlog(self) -> Backlog:
        batcher = self._batcher
        if batcher is None:
            return Backlog()
        speed = batcher.speed or self._first_speed
        return Backlog(batcher.waiting_tokens, batcher.running_batches.tokens, speed)

    def doing(self) -> Doing:
        batcher = self._batcher
        if batcher is None:
            return Doing()
        cache = batcher.cache
        hits, misses = (0, 0) if cache is None else (cache.hits, cache.misses)
        return Doing(batcher.waiting, int(batcher.busy), 0, batcher.shared, hits, misses)

    def measure(self) -> None:
        if self._batcher is not None:
            self._metrics.queue(self._batcher)

    def close(self) -> None:
        if self._batcher is not None:
            self._batcher.close()
        self.loader.shutdown(wait=False)

    @property
    def batcher(self) -> Batcher:
        """Made by the first request, on the loop that serves requests."""
        if self._batcher is None:
            pace, settings = self._family.pace, self._settings
            self._batcher = Batcher(
                self._run,
                self.loader if pace.parallel == 1 else model_threads(pace.parallel),
                batch_tokens=pace.batch_tokens or settings.batch_tokens,
                limits=QueueLimits(settings.queue_tokens, settings.max_wait_s, settings.max_wait_from),
                parallel=pace.parallel,
                pads=pace.pads,
                cache=AnswerCache(settings.cache_bytes) if settings.cache_bytes else None,
                hung_s=settings.probe_timeout_s,
                first_speed=self._first_speed,
            )
            self._batcher.on_batch = self._ran
            self._batcher.on_hung = self._end_hung
        return self._batcher

    def _run(self, batch: Sequence[Any]) -> Sequence[Any]:
        with _ending_with_the_accelerator():
            return self._family.run(batch)

    def _ran(self, batch: Sequence[Item], seconds: float) -> None:
        self.computed_at = time.perf_counter()
        self._metrics.batch(len(batch), sum(item.tokens for item in batch), seconds)

    def _end_hung(self, batch: Sequence[Item], seconds: float) -> None:
        """A thread cannot be stopped from outside; only a new process computes again."""
        log.critical("%s: a batch of %d inputs has run for %.0f s, this worker ends", self._name, len(batch), seconds)
        os._exit(70)


Queue = TypeVar("Queue", SteppedQueue, TalkQueue)


class UnbatchedWork(Generic[Queue]):
    """What the contracts share whose values are worked on one by one, for seconds or minutes each, and show how far
    they are."""

    prepares_inline: ClassVar[bool] = False

    def __init__(self, name: str, make_queue: Callable[[], Queue]) -> None:
        self._name = name
        self._make_queue: Callable[[], Queue] = make_queue
        self._queue: Queue | None = None
        self.loader = model_threads(1)
        self.computed_at = float("-inf")

    @property
    def queue(self) -> Queue:
        """Made by the first request, on the loop that serves requests."""
        if self._queue is None:
            self._queue = self._make_queue()
        return self._queue

    async def answered(self, request: OpenRequest) -> Outputs:
        values = await request.done
        self.computed_at = time.perf_counter()
        return Outputs(values, request.queued_at, request.started_at)

    def cancel(self, owner: str, block_s: float) -> bool:
        """Takes no request of that id for `block_s`."""
        return self.queue.cancel(owner, block_s)

    def under_way(self) -> Sequence[OpenCall]:
        return () if self._queue is None else self._queue.under_way()

    def is_busy(self) -> bool:
        if self._queue is None or not self._queue.running:
            return False
        if not self._queue.is_alive:
            raise errors.Unavailable(f"{self._name} works on something and shows no progress.", retry_after_s=5.0)
        return True

    def overdue(self) -> Sequence[str]:
        """Nobody knows how long a value usually takes; that it goes on is seen from what it shows."""
        return ()

    def backlog(self) -> Backlog:
        return Backlog() if self._queue is None else self._queue.backlog

    def doing(self) -> Doing:
        queue = self._queue
        return Doing() if queue is None else Doing(queue.waiting, queue.running, queue.pieces)

    def measure(self) -> None:
        """There are no metrics of these queues."""

    def close(self) -> None:
        self.loader.shutdown(wait=False)


class SteppedWork(UnbatchedWork[SteppedQueue]):
    """Each value has a thread of its own and reports how far it is."""

    def __init__(self, family: Stepped, name: str) -> None:
        super().__init__(name, self._new_queue)
        self._family = family
        #: How long the example took.
        self._example_s = 0.0

    def _new_queue(self) -> SteppedQueue:
        pace = self._family.pace
        return SteppedQueue(self._stream, model_threads(pace.parallel), parallel=pace.parallel, speed=pace.speed)

    def warm_up(self, prepared: Prepared) -> None:
        started = time.perf_counter()
        for value in prepared.values:
            self._stream(value, Unwatched())
        self._example_s = time.perf_counter() - started

    def strain(self, prepared: Prepared) -> bool:
        pace = self._family.pace
        # Without a speed the family's largest request is one that takes little longer than its example.
        seconds = self._example_s if pace.speed is None else sum(prepared.work) / pace.speed
        if not prepared.values or seconds > MOST_STRAIN_S:
            return False
        self.warm_up(prepared)
        return True

    def loaded(self) -> None:
        """Requests are computed in other threads. The one that loaded would only keep its OpenMP team awake."""
        done, self.loader = self.loader, model_threads(1)
        done.shutdown(wait=False)

    async def outputs(self, call: Call, prepared: Prepared, is_alone: bool, send: Send | None = None) -> Outputs:
        request = self.queue.submit(prepared.values, prepared.work, owner=call.id, seconds_left=call.seconds_left)
        return await self.answered(request)

    async def watch(self, owner: str, seen: int, wait_s: float) -> View | None:
        return await self._queue.watch(owner, seen, wait_s) if self._queue is not None else None

    def _stream(self, value: Any, progress: Progress) -> Any:
        with _ending_with_the_accelerator():
            return self._family.stream(value, progress)


class TalkingWork(UnbatchedWork[TalkQueue]):
    """The engine has a scheduler of its own, and tells each answer piece by piece."""

    def __init__(self, family: Talking, name: str, settings: Settings) -> None:
        super().__init__(name, self._new_queue)
        self._family = family
        self._limits = QueueLimits(settings.queue_tokens)

    def _new_queue(self) -> TalkQueue:
        pace = self._family.pace
        return TalkQueue(
            self._family.begin, slots=pace.parallel, room=pace.room, luggage=pace.luggage, limits=self._limits
        )

    def warm_up(self, prepared: Prepared) -> None:
        outcomes: SimpleQueue[object] = SimpleQueue()

        def tell(piece: object) -> None:
            if isinstance(piece, Finished):
                outcomes.put(piece.outcome)

        for value in prepared.values:
            self._family.begin(value, tell)
        for _ in prepared.values:
            outcome = outcomes.get()
            if isinstance(outcome, Exception):
                raise outcome

    def strain(self, prepared: Prepared) -> bool:
        """As many at once as the engine takes: all that is kept of their prompts is kept then."""
        pace, work = self._family.pace, sum(prepared.work)
        if not prepared.values or not work:
            return False
        times = max(1, min(pace.parallel, int((pace.room or work * pace.parallel) / work)))
        self.warm_up(replace(prepared, values=[*prepared.values] * times))
        return True

    def loaded(self) -> None:
        """The engine computes in threads of its own."""

    async def outputs(self, call: Call, prepared: Prepared, is_alone: bool, send: Send | None = None) -> Outputs:
        request = self.queue.submit(
            prepared.values,
            prepared.work,
            prepared.luggage,
            owner=call.id,
            seconds_left=call.seconds_left,
            send=send,
        )
        return await self.answered(request)

    async def watch(self, owner: str, seen: int, wait_s: float) -> View | None:
        return None


def filled(prepared: Prepared, batch_tokens: int) -> tuple[list[Any], int]:
    """The inputs of one batch as full as batches get, made of these again and again, and their tokens."""
    values: list[Any] = []
    total = 0
    for value, tokens in cycle(zip(prepared.values, prepared.tokens, strict=False)):
        if values and (total + tokens > batch_tokens or len(values) == MOST_INPUTS):
            break
        values.append(value)
        total += tokens
    return values, total


def model_threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "model", _give_way)


def _give_way() -> None:
    """A model computes for seconds, and the next request is read in microseconds: so reading goes first."""
    if sys.platform == "linux":  # elsewhere it would be the priority of another process
        thread = threading.get_native_id()
        # Only root may go back to less than the process was started with.
        os.setpriority(os.PRIO_PROCESS, thread, max(MODEL_NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))


@contextmanager
def _ending_with_the_accelerator() -> Iterator[None]:
    """Ends this process when the accelerator fails: its context does not come back, every later call would fail too."""
    try:
        yield
    except RuntimeError as error:
        # Torch's class is a RuntimeError. It is told by its name, since this module does not import torch.
        if type(error).__name__ == "AcceleratorError":
            log.critical("the accelerator failed, this worker ends: %s", error)
            os._exit(70)
        raise
