"""A batcher and a model for tests, which can keep the model busy while they submit more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cluster.worker.admission import QueueLimits
from cluster.worker.batching import Batcher
from cluster.worker.tickets import Ticket

#: Longer than anything here takes; what still waits after this would wait for ever.
PATIENCE_S = 2.0


class Model:
    """Answers each value with its double, and records what it was given. While `open` is not set, it does not go on."""

    def __init__(self, run: Callable[[Sequence[Any]], Sequence[Any]] | None = None) -> None:
        self.batches: list[list[Any]] = []
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        self._run = run or (lambda batch: [value * 2 for value in batch])

    def __call__(self, batch: Sequence[Any]) -> Sequence[Any]:
        self.batches.append(list(batch))
        self.entered.set()
        assert self.open.wait(PATIENCE_S)
        return self._run(batch)


class Queue:
    """A batcher with short calls for tests."""

    def __init__(self, model: Model, executor: ThreadPoolExecutor, **limits: Any) -> None:
        self.model = model
        admission = {name: limits.pop(name) for name in QueueLimits.__slots__ if name in limits}
        self.batcher = Batcher(model, executor, limits=QueueLimits(**admission), **limits)

    def submit(
        self,
        *values: Any,
        owner: str = "me",
        key: str = "",
        tokens: int | list[int] = 1,
        seconds: float = 60,
        same: bool = False,
    ) -> Ticket:
        """`same`: equal values have equal answers."""
        costs = [tokens] * len(values) if isinstance(tokens, int) else tokens
        identities = values if same else None
        return self.batcher.submit(values, costs, key=key, seconds_left=seconds, owner=owner, identities=identities)

    async def busy(self) -> Ticket:
        """Keeps the model busy, so that what is submitted next has to wait."""
        self.model.entered.clear()
        self.model.open.clear()
        ticket = self.submit(0, owner="busy")
        assert await asyncio.to_thread(self.model.entered.wait, PATIENCE_S)
        self.model.batches.clear()
        return ticket

    async def idle(self) -> None:
        self.model.open.set()
        async with asyncio.timeout(PATIENCE_S):
            while self.batcher.busy:
                await asyncio.sleep(0.001)

    async def answer(self, ticket: Ticket) -> Any:
        """The outputs or the error of the request."""
        self.model.open.set()
        (outcome,) = await asyncio.wait_for(asyncio.gather(ticket.done, return_exceptions=True), PATIENCE_S)
        return outcome


def play(scene: Callable[[Queue], Coroutine[Any, Any, None]], model: Model | None = None, **limits: Any) -> None:
    """Runs the scene. Whatever it did, the queue must still answer afterwards if its model is the default one, and
    nothing may be left in it."""

    async def whole() -> None:
        with ThreadPoolExecutor(limits.get("parallel", 1)) as executor:
            queue = Queue(model or Model(), executor, **limits)
            try:
                await scene(queue)
                if model is None:
                    await queue.idle()
                    assert await queue.answer(queue.submit(21)) == [42]
                    await queue.idle()
                    assert (queue.batcher.waiting, queue.batcher.waiting_tokens) == (0, 0)
            finally:
                queue.model.open.set()
                queue.batcher.close()

    asyncio.run(whole())


def refuses(*bad: Any, error: BaseException | None = None) -> Callable[[Sequence[Any]], Sequence[Any]]:
    def run(batch: Sequence[Any]) -> Sequence[Any]:
        if any(value in bad for value in batch):
            raise error or ValueError(f"cannot do {bad}")
        return [value * 2 for value in batch]

    return run
