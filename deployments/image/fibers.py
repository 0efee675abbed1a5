"""The one thread in which a model computes; every request is a fiber (a greenlet) of it.

Each thread that computes on CPU keeps its own OpenMP team with a thread per core. With more than one team in the
process, no team spin-waits for its members, and every small operation pays for waking them. Measured on 2 cores with a
UNet of 34 million parameters: 45 ms for a pass with one team in the process, 84 to 107 ms with two.

A fiber runs until it has to wait for something; then the thread takes up the next fiber. Giving each request a thread
was tried: the threads woke each other twice a step and competed in between, which took 1 to 2 ms of every step of every
request.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from greenlet import getcurrent, greenlet

#: Stages of requests that may run at once outside the thread, where the denoiser has a device of its own.
STAGES_AT_ONCE = 16

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Fiber(greenlet):
    """One request on its way through its pipeline. The pipeline does not know that it runs in a fiber."""

    def __init__(self, work: Callable[[], Result], owner: object, done: Future[Result]) -> None:
        super().__init__(partial(_complete, work, done))
        self.owner = owner

    def pause(self) -> None:
        """Called inside the fiber. It continues when its `switch` is called in the compute thread."""
        assert self.parent is not None
        self.parent.switch()


def _complete(work: Callable[[], Result], done: Future[Result]) -> None:
    try:
        result = work()
    # The error goes to the thread that waits for the result; the thread that runs all fibers must go on.
    except BaseException as error:
        done.set_exception(error)
    else:
        done.set_result(result)


def current_fiber() -> Fiber | None:
    current = getcurrent()
    return current if isinstance(current, Fiber) else None


class ComputeThread:
    def __init__(self, device: str) -> None:
        import torch

        self._set_threads = torch.set_num_threads
        self._set_gradients = torch.set_grad_enabled
        self._is_on_cpu = device == "cpu"
        self._executor = ThreadPoolExecutor(1, "compute", self._begin)
        self._stages = ThreadPoolExecutor(STAGES_AT_ONCE, "stage", partial(torch.set_grad_enabled, False))
        self._thread_id = 0

    def _begin(self) -> None:
        # Torch keeps this setting per thread.
        self._set_gradients(False)
        self._thread_id = threading.get_ident()

    def post(self, work: Callable[[], object]) -> None:
        """Queues work for the thread and returns at once."""
        self._executor.submit(work)

    def begin(self, work: Callable[[], Result], owner: object) -> Future[Result]:
        """Runs the work in a fiber of its own. The future can be cancelled until the fiber has begun."""
        done: Future[Result] = Future()

        def start() -> None:
            # A greenlet belongs to the thread that creates it.
            if done.set_running_or_notify_cancel():
                Fiber(work, owner, done).switch()

        self.post(start)
        return done

    def run(self, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """Runs the work and returns its result: on CPU in the one thread; on another device, a fiber has it done in
        a thread beside, and the other fibers go on meanwhile."""
        fiber = current_fiber()
        if not self._is_on_cpu and fiber is not None:
            done = self._stages.submit(work, *args, **kwargs)
            done.add_done_callback(lambda _: self.post(fiber.switch))
            fiber.pause()
            return done.result()
        if not self._is_on_cpu or threading.get_ident() == self._thread_id:
            return work(*args, **kwargs)
        return self._executor.submit(work, *args, **kwargs).result()

    def close(self) -> None:
        self._executor.shutdown(wait=False)
        self._stages.shutdown(wait=False)

    def set_threads(self, threads: int) -> None:
        self.run(self._set_threads, threads)
