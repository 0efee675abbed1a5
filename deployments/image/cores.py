"""Where a model's arithmetic runs: on CPU in one thread, whoever wants it done.

Each thread that computes keeps a team of threads for all cores, and where there is more than one team none of them
waits for its members in earnest: then every small operation pays for waking them. Measured on 2 cores with a UNet of 34
million parameters: 45 ms for a pass with one team in the process, 84 to 107 ms with two.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Cores:
    def __init__(self, device: str) -> None:
        import torch

        self._torch = torch
        self._computes = device == "cpu"
        #: One thread: for all arithmetic on CPU, for the passes of the denoiser elsewhere.
        self.executor = ThreadPoolExecutor(1, "cores", self._begin)
        self._thread = 0

    def _begin(self) -> None:
        # Torch keeps it per thread.
        self._torch.set_grad_enabled(False)
        self._thread = threading.get_ident()

    def run(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._computes or threading.get_ident() == self._thread:
            return work(*args, **kwargs)
        return self.executor.submit(work, *args, **kwargs).result()

    def spare(self) -> None:
        """Called in a thread that computes little itself: that it does alone, and keeps no team."""
        if self._computes and threading.get_ident() != self._thread and self._torch.get_num_threads() > 1:
            self._torch.set_num_threads(1)

    def set_threads(self, threads: int) -> None:
        self.run(self._torch.set_num_threads, threads)
