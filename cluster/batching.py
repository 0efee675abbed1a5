"""One queue before one model: waiting is counted in tokens, running is a batch, a failure stays with its caller.

Knows nothing of models: `run` is a function from a list to a list of the same length, called in one thread.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from cluster import errors

Run = Callable[[Sequence[Any]], Sequence[Any]]


class Ticket:
    """One request: its inputs are answered together, in order, or fail together."""

    __slots__ = ("done", "deadline", "left", "outputs", "owner", "queued_at", "started_at")

    def __init__(self, owner: str, count: int, deadline: float, done: asyncio.Future[list[Any]]) -> None:
        self.owner = owner
        self.outputs: list[Any] = [None] * count
        self.left = count
        self.deadline = deadline
        self.done = done
        self.queued_at = time.perf_counter()
        self.started_at = 0.0

    def settle(self, index: int, output: Any) -> None:
        self.outputs[index] = output
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result(self.outputs)

    def fail(self, error: Exception) -> None:
        if self.done.done():
            return
        if not isinstance(error, errors.ClusterError):
            error = errors.InferenceFailed(f"{type(error).__name__}: {error}")
        self.done.set_exception(error)


@dataclass(slots=True)
class Item:
    """One input in the queue."""

    value: Any
    tokens: int
    #: Only equal keys share a batch.
    key: Hashable
    ticket: Ticket
    index: int


class Batcher:
    def __init__(
        self,
        run: Run,
        executor: Executor,
        *,
        batch_tokens: int = 16_384,
        batch_items: int = 1024,
        queue_tokens: int = 2_000_000,
    ) -> None:
        self._run = run
        self._executor = executor
        self._batch_tokens = batch_tokens
        self._batch_items = batch_items
        self._queue_tokens = queue_tokens
        self._queue: deque[Item] = deque()
        self._waiting_tokens = 0
        self._filled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._running: Sequence[Item] = ()
        self._closed = False
        #: Told of every batch that ran, with the seconds it took.
        self.on_batch: Callable[[Sequence[Item], float], None] = lambda items, seconds: None

    @property
    def waiting_tokens(self) -> int:
        return self._waiting_tokens

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def busy(self) -> bool:
        return bool(self._queue or self._running)

    def submit(
        self, values: Sequence[Any], tokens: Sequence[int], *, key: Hashable, seconds_left: float, owner: str
    ) -> Ticket:
        """Queues the inputs of one request, all or none; await the ticket's `done`."""
        if self._closed:
            raise errors.WorkerDraining("The worker stops.")
        loop = asyncio.get_running_loop()
        ticket = Ticket(owner, len(values), loop.time() + seconds_left, loop.create_future())
        if not values:
            ticket.done.set_result([])
            return ticket
        total = sum(tokens)
        # A request larger than the whole queue is let in when nothing waits; otherwise it could never run.
        if self._queue and self._waiting_tokens + total > self._queue_tokens:
            raise errors.Overloaded(
                f"The queue is full: {self._waiting_tokens} tokens wait, {self._queue_tokens} may.", 1.0
            )
        self._queue.extend(
            Item(value, cost, key, ticket, index)
            for index, (value, cost) in enumerate(zip(values, tokens, strict=True))
        )
        self._waiting_tokens += total
        self._filled.set()
        if self._task is None:
            self._task = loop.create_task(self._work(), name="batcher")
        return ticket

    def cancel(self, owner: str) -> bool:
        """Drops what that caller still has waiting; what runs already runs to its end, unheard.

        An owner is `<request>#<call>`; the request alone means all its calls.
        """
        everything = (*self._queue, *self._running)
        items = [item for item in everything if owner in (item.ticket.owner, item.ticket.owner.partition("#")[0])]
        tickets = {item.ticket for item in items if not item.ticket.done.done()}
        for ticket in tickets:
            ticket.fail(errors.RequestCancelled(f"The request has been cancelled: {owner.partition('#')[0]}"))
        if tickets:
            self._queue = deque(item for item in self._queue if item.ticket not in tickets)
            self._waiting_tokens = sum(item.tokens for item in self._queue)
        return bool(tickets)

    def close(self) -> None:
        """Answers whoever waits, or is being run, and takes nothing more."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        for item in (*self._queue, *self._running):
            item.ticket.fail(errors.WorkerDraining("The worker stops."))
        self._queue.clear()
        self._waiting_tokens = 0

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._queue:
                self._filled.clear()
                await self._filled.wait()
            batch = self._next_batch(loop.time())
            if not batch:
                continue
            self._running = batch
            try:
                await self._run_batch(batch)
            # The one thing this loop may never do is end: every waiter after it would wait for ever.
            except Exception as error:
                for item in batch:
                    item.ticket.fail(error)
            finally:
                self._running = ()

    def _next_batch(self, now: float) -> list[Item]:
        """The oldest waiting item and those behind it that may share its batch, within the budget."""
        batch: list[Item] = []
        left: deque[Item] = deque()
        tokens = 0
        while self._queue and len(batch) < self._batch_items:
            item = self._queue.popleft()
            if item.ticket.done.done():
                self._waiting_tokens -= item.tokens
            elif item.ticket.deadline <= now:
                self._waiting_tokens -= item.tokens
                item.ticket.fail(errors.DeadlineExceeded("The request's time ran out while it waited in the queue."))
            elif batch and item.key != batch[0].key:
                left.append(item)
            elif batch and tokens + item.tokens > self._batch_tokens:
                left.append(item)
                break
            else:
                batch.append(item)
                tokens += item.tokens
                self._waiting_tokens -= item.tokens
        self._queue.extendleft(reversed(left))
        return batch

    def _run_safely(self, values: Sequence[Any]) -> tuple[Sequence[Any], Exception | None]:
        """In the model's thread. What it raises comes back as a value: a future cannot carry StopIteration, and a
        CancelledError would end the loop."""
        try:
            outputs = self._run(values)
            if len(outputs) != len(values):
                raise errors.InferenceFailed(f"The model gave {len(outputs)} answers to {len(values)} inputs.")
            return outputs, None
        except Exception as error:
            return (), error
        except BaseException as error:
            return (), errors.InferenceFailed(f"{type(error).__name__}: {error}")

    async def _run_batch(self, batch: Sequence[Item]) -> None:
        """Runs it; when it fails, halves it until the inputs that fail are alone with their error."""
        started = time.perf_counter()
        for item in batch:
            item.ticket.started_at = item.ticket.started_at or started
        loop = asyncio.get_running_loop()
        outputs, error = await loop.run_in_executor(self._executor, self._run_safely, [item.value for item in batch])
        if error is not None:
            if len(batch) > 1 and not isinstance(error, MemoryError):
                middle = len(batch) // 2
                await self._run_batch(batch[:middle])
                await self._run_batch(batch[middle:])
                return
            for item in batch:
                item.ticket.fail(error)
            return
        self.on_batch(batch, time.perf_counter() - started)
        for item, output in zip(batch, outputs, strict=True):
            item.ticket.settle(item.index, output)
