"""The denoiser of a loaded model, run for the calls of several requests in one forward pass.

Knows nothing of who waits for what: `denoiser_queue` decides which calls go together. Passes are made in the compute
thread, one at a time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from cluster import errors
from cluster.worker.exhaustion import is_out_of_memory
from deployments.image.fibers import ComputeThread
from deployments.image.loras import Adapters
from deployments.image.replacements import DenoiserMethods
from deployments.image.saturation import Saturation
from deployments.image.tensors import Argument, joined_calls, parts_of

log = logging.getLogger("cluster.worker.worker")

#: Which call of a step it is, as the pipeline says, and what else it tells a cache.
CacheCall = tuple[str, dict[str, Argument]]


class PassCall(Protocol):
    """What a pass needs of one call, and where it leaves the result."""

    args: tuple[Argument, ...]
    kwargs: dict[str, Argument]
    samples: int
    cache_call: CacheCall
    answer: Argument
    error: Exception | None

    @property
    def adapters(self) -> Adapters: ...

    @property
    def most_samples(self) -> int:
        """That a pass of such calls may have."""

    @property
    def shape(self) -> Hashable:
        """What decides how long a pass takes: everything that calls of one pass have in common but the adapters."""

    def check(self) -> None:
        """Raises once nobody waits for the answer."""


class Denoiser:
    def __init__(
        self,
        methods: DenoiserMethods,
        saturation: Saturation,
        compute: ComputeThread,
        adapt: Callable[[Adapters], None],
        most_samples: int,
    ) -> None:
        """`adapt` puts a set of adapters in force; a pass has `most_samples` samples at most."""
        import torch

        self._torch = torch
        self._methods = methods
        self._compute = compute
        self._adapt = adapt
        self._most_samples = most_samples
        self.saturation = saturation
        #: How many passes there were, and how many samples they had.
        self.passes = 0
        self.samples = 0

    @property
    def forward(self) -> Callable[..., Argument]:
        """The module's own."""
        return self._methods.forward

    def capacity(self, call: PassCall) -> int:
        """How many samples a pass of such calls should have."""
        return min(self._most_of(call), self.saturation.cap(call.shape))

    def _most_of(self, call: PassCall) -> int:
        # A call is not divided, however many samples it has.
        return max(call.samples, min(self._most_samples, call.most_samples))

    def measure(self, call: PassCall, seconds: float) -> None:
        """Measures passes of ever more copies of one call, as long as further copies make each of them cheaper."""
        until = time.monotonic() + seconds
        copies = 1
        with self._torch.no_grad():
            while copies * call.samples <= self._most_of(call):
                cheapest = self.saturation.cap(call.shape)
                for _ in range(3):
                    try:
                        self._pass([call] * copies, has_cache=False)
                    except RuntimeError as error:
                        if not is_out_of_memory(error):
                            raise
                        self.saturation.refuse(call.shape, copies * call.samples)
                        return
                if time.monotonic() > until or (copies > 1 and self.saturation.cap(call.shape) < cheapest):
                    return
                copies *= 2

    def serve(self, calls: Sequence[PassCall], *, has_cache: bool) -> None:
        """One pass; afterwards each call has an answer or an error. `has_cache`: the calls are of the one request that
        has the denoiser to itself, and a cache may be enabled."""
        wanted = [call for call in calls if _is_wanted(call)]
        if not wanted or (error := self._failure(wanted, has_cache)) is None:
            return
        if is_out_of_memory(error):
            if self._torch.cuda.is_available():
                self._torch.cuda.empty_cache()
            self.saturation.refuse(wanted[0].shape, len(wanted) * wanted[0].samples)
        if len(wanted) == 1:
            wanted[0].error = as_request_error(error)
            return
        # One call may be the cause of the failure of all, and each request is to hear of its own errors only.
        log.warning("a pass of %d requests failed, each is tried alone: %s", len(wanted), error)
        for call in wanted:
            self.serve([call], has_cache=has_cache)

    def _failure(self, calls: Sequence[PassCall], has_cache: bool) -> Exception | None:
        """Runs the pass. The error comes without its frames, which would keep alive all tensors that the pass made."""
        try:
            self._pass(calls, has_cache)
        # A model can raise anything, and the thread that runs it for all requests must go on.
        except Exception as error:
            is_odd = not is_out_of_memory(error) and not isinstance(error, errors.ClusterError)
            log.debug("a pass failed", exc_info=is_odd)
            return error.with_traceback(None)
        return None

    def _pass(self, calls: Sequence[PassCall], has_cache: bool) -> None:
        first = calls[0]
        self._adapt(first.adapters)
        counts = [call.samples for call in calls]
        args, kwargs = joined_calls([(call.args, call.kwargs) for call in calls], counts)
        started = time.perf_counter()
        with self._cache_context(first) if has_cache else nullcontext():
            output = self._compute.run(self._methods.forward, *args, **kwargs)
        parts = [output] if len(calls) == 1 else parts_of(output, counts)
        if self._torch.cuda.is_available():
            self._torch.cuda.current_stream().synchronize()
        self.saturation.observe(first.shape, sum(counts), time.perf_counter() - started)
        self.passes += 1
        self.samples += sum(counts)
        for call, part in zip(calls, parts, strict=True):
            call.answer = part

    def _cache_context(self, call: PassCall) -> AbstractContextManager[None]:
        if self._methods.cache_context is None:
            return nullcontext()
        name, arguments = call.cache_call
        return self._methods.cache_context(name, **arguments)


def _is_wanted(call: PassCall) -> bool:
    try:
        call.check()
    except errors.ClusterError as error:
        call.error = error
        return False
    return True


def as_request_error(error: Exception) -> Exception:
    if is_out_of_memory(error):
        return errors.OutOfMemory("This request needs more memory than there is: ask for a smaller picture.")
    return error
