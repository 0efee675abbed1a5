"""A denoiser that doubles, and a queue before it, for tests of which calls share a pass."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from deployments.image.denoiser_queue import DenoiserQueue, DenoiserRequest
from deployments.image.fibers import ComputeThread
from deployments.image.loras import Adapters
from deployments.image.saturation import Saturation
from tests.deployments.image.painter import Watched

#: Keeps the denoiser busy while other calls arrive; it is not recorded.
FIRST = [0.5]


class Doubling(torch.nn.Module):  # type: ignore[misc]
    """Answers with the double of its input, and records which calls came together."""

    def __init__(self, most: int = 100) -> None:
        super().__init__()
        self.passes: list[list[float]] = []
        self.kwargs: list[dict[str, Any]] = []
        self.most = most
        self.threads: set[int] = set()
        #: Closed to delay the first pass until more calls have arrived.
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def forward(self, sample: torch.Tensor, timestep: Any = 0, **kwargs: Any) -> tuple[torch.Tensor]:
        self.entered.set()
        assert self.gate.wait(10)
        self.threads.add(threading.get_ident())
        values = sample.flatten(1)[:, 0].tolist()
        if values != FIRST:
            self.passes.append(values)
            self.kwargs.append({"timestep": timestep, **kwargs})
        if values != FIRST and len(values) > self.most:
            raise torch.OutOfMemoryError(f"{len(values)} samples are too many")
        if any(value < 0 for value in values):
            raise ZeroDivisionError("nothing less than zero is doubled")
        return (2 * sample,)


class Slow(Saturation):
    """A pass is known to take long enough for other calls to arrive."""

    def cap(self, shape: Hashable) -> int:
        return self._bounds.get(shape, self._most)

    def seconds(self, shape: Hashable, samples: int) -> float:
        return 1.0


class QueueUnderTest:
    """A queue before a doubling denoiser, with requests that call at once."""

    def __init__(self, fits: int = 100, **more: Any) -> None:
        self.module = Doubling(fits)
        self.adapted: list[Adapters] = []
        self.compute = ComputeThread("cpu")
        self.queue = DenoiserQueue(self.module, Slow(), self.compute, adapt=self.adapted.append, **more)
        self.threads = ThreadPoolExecutor(16)

    def ask(self, value: float, request: DenoiserRequest | None = None, **kwargs: Any) -> Future[float]:
        """Makes one call, as a request of its own."""
        request = request or DenoiserRequest(Watched(), 1.0, 1)
        asked = {"sample": torch.full((1, 2, 2), value), **kwargs}

        def call() -> float:
            with self.queue.admitted(request) as run:
                return float(run(self.module, **asked)[0].flatten()[0])

        return self.threads.submit(call)

    @property
    def waiting(self) -> int:
        """The number of requests that wait for the thread that computes."""
        return self.compute._executor._work_queue.qsize()

    def together(self, *calls: dict[str, Any]) -> list[float | BaseException | None]:
        """The answers to calls that all arrived while the denoiser was busy with another."""
        self.module.gate.clear()
        self.module.entered.clear()
        first = self.ask(*FIRST, sample=torch.full((1, 9), *FIRST))
        assert self.module.entered.wait(10)
        # They arrive one after the other, so that their order is known.
        asked = []
        for place, call in enumerate(calls):
            asked.append(self.ask(**call))
            until(lambda place=place: self.waiting == place + 1)  # type: ignore[misc]
        self.module.passes.clear()
        self.module.kwargs.clear()
        self.module.gate.set()
        first.result(10)
        found = [one.exception(10) or one.result() for one in asked]
        until(lambda: self.queue.is_idle)
        return found  # type: ignore[return-value]


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def request(cost: float = 1.0, adapters: Adapters = (), progress: Watched | None = None) -> DenoiserRequest:
    return DenoiserRequest(progress or Watched(), cost, 1, adapters)
