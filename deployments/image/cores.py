"""Where a model's arithmetic runs: in one thread, and requests are strands of it.

Each thread that computes on CPU keeps a team of threads for all cores, and where there is more than one team none of
them waits for its members in earnest: then every small operation pays for waking them. Measured on 2 cores with a UNet
of 34 million parameters: 45 ms for a pass with one team in the process, 84 to 107 ms with two.

A strand runs until it waits for something, and the thread takes up the next: threads of their own would wake each
other twice a step, and stand in each other's way between, which took 1 to 2 ms of every step of every request.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from greenlet import getcurrent, greenlet

#: Stages of requests that run beside the denoiser at once, where it has a device for itself.
APART = 16


class Strand(greenlet):
    """One request on its way through its pipeline, which knows nothing of this."""

    def __init__(self, work: Callable[[], Any], owner: Any, done: Future[Any]) -> None:
        super().__init__()
        self._work = work
        self._done = done
        self.owner = owner
        #: Whatever those that it meets on its way note for later.
        self.notes: dict[str, Any] = {}

    def run(self) -> None:
        try:
            found = self._work()
        # It is told to whoever waits; the thread that runs all strands goes on.
        except BaseException as error:
            self._done.set_exception(error)
        else:
            self._done.set_result(found)

    def pause(self) -> None:
        """Called in it: goes on when somebody calls its `switch` in the thread of the cores."""
        assert self.parent is not None
        self.parent.switch()


def strand_here() -> Strand | None:
    here = getcurrent()
    return here if isinstance(here, Strand) else None


class Cores:
    def __init__(self, device: str) -> None:
        import torch

        self._torch = torch
        self._computes = device == "cpu"
        self._executor = ThreadPoolExecutor(1, "cores", self._begin)
        self._apart = ThreadPoolExecutor(APART, "apart", partial(torch.set_grad_enabled, False))
        self._thread = 0

    def _begin(self) -> None:
        # Torch keeps it per thread.
        self._torch.set_grad_enabled(False)
        self._thread = threading.get_ident()

    def post(self, work: Callable[[], Any]) -> None:
        """It is done when its turn comes."""
        self._executor.submit(work)

    def begin(self, work: Callable[[], Any], owner: Any) -> Future[Any]:
        """Runs it as a strand. What is given can be cancelled until then."""
        done: Future[Any] = Future()

        def start() -> None:
            # A strand belongs to the thread that makes it.
            if done.set_running_or_notify_cancel():
                Strand(work, owner, done).switch()

        self.post(start)
        return done

    def run(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """On CPU in the one thread. Elsewhere strands have it done apart, and others go on meanwhile."""
        strand = strand_here()
        if not self._computes and strand is not None:
            done = self._apart.submit(work, *args, **kwargs)
            done.add_done_callback(lambda _: self.post(strand.switch))
            strand.pause()
            return done.result()
        if not self._computes or threading.get_ident() == self._thread:
            return work(*args, **kwargs)
        return self._executor.submit(work, *args, **kwargs).result()

    def set_threads(self, threads: int) -> None:
        self.run(self._torch.set_num_threads, threads)
