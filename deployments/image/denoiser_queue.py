"""The queue before a model's denoiser, which all requests share: calls that fit together become one forward pass.

Every request runs an unchanged pipeline of its own, as a fiber of the compute thread. Only its calls of the denoiser
come here, and each waits until a pass has taken it along. So requests can join at any step, with any number of steps,
and each picture is the same as if it had been drawn alone. A pass begins when every fiber has run as far as it can
without one; `gathering` decides which calls it takes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, Protocol, TypeVar

from cluster import errors
from cluster.worker.family import Progress
from deployments.image.denoiser import CacheCall, Denoiser
from deployments.image.fibers import ComputeThread, Fiber, current_fiber
from deployments.image.gathering import gathered
from deployments.image.loras import Adapters
from deployments.image.replacements import share_denoiser
from deployments.image.saturation import Saturation
from deployments.image.tensors import Argument, Signatures, samples_in

if TYPE_CHECKING:
    from diffusers import ModelMixin

log = logging.getLogger("cluster.worker.worker")

#: How often a request whose call waits for a pass checks whether anybody still wants its picture.
CHECK_EVERY_S = 0.25
UNLIMITED = 1_000_000

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class DenoiserRequest:
    """One request, as the denoiser's queue knows it."""

    def __init__(
        self, progress: Progress, cost: float, steps: int, adapters: Adapters = (), most_samples: int = UNLIMITED
    ) -> None:
        """`most_samples`: more such samples in one pass would take more memory than there is for the model."""
        self.progress = progress
        self.adapters = adapters
        self.most_samples = most_samples
        #: Calls of the denoiser so far, and how many of them belong to steps that are finished.
        self.calls = 0
        self.calls_before_step = 0
        #: Which call of its step comes next, where the pipeline says so.
        self.cache_call: CacheCall | None = None
        self._cost = cost
        self.steps = max(steps, 1)
        self.step = 0

    @property
    def cost_left(self) -> float:
        return self._cost * max(self.steps - self.step, 0) / self.steps

    def finish(self, steps: int) -> None:
        """So many steps are finished."""
        self.step = steps
        self.calls_before_step = self.calls


class CallKey(NamedTuple):
    """Equal for calls that may share a pass."""

    adapters: Adapters
    shape: Hashable


class DenoiserCall:
    """A call of the denoiser that waits for its pass, with the fiber to continue afterwards."""

    __slots__ = ("answer", "args", "arrived", "cache_call", "error", "fiber", "key", "kwargs", "request", "samples")

    def __init__(
        self,
        fiber: Fiber,
        request: DenoiserRequest,
        args: tuple[Argument, ...],
        kwargs: dict[str, Argument],
        samples: int,
        shape: Hashable,
    ) -> None:
        self.fiber = fiber
        self.request = request
        self.args = args
        self.kwargs = kwargs
        self.samples = max(samples, 1)
        self.key = CallKey(request.adapters, shape)
        # Where the pipeline does not say which call of the step this is, its number does.
        self.cache_call = request.cache_call or (f"call {request.calls - request.calls_before_step}", {})
        self.arrived = time.monotonic()
        self.answer: Argument = None
        self.error: Exception | None = None

    @property
    def shape(self) -> Hashable:
        return self.key.shape

    @property
    def adapters(self) -> Adapters:
        return self.key.adapters

    @property
    def most_samples(self) -> int:
        return self.request.most_samples

    @property
    def cost_left(self) -> float:
        return self.request.cost_left

    def check(self) -> None:
        self.request.progress.check()


class RunWork(Protocol):
    """Runs work in a fiber of one request, and returns what it returns."""

    def __call__(
        self, work: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result: ...


class DenoiserQueue:
    def __init__(
        self,
        module: ModelMixin,
        saturation: Saturation,
        compute: ComputeThread | None = None,
        *,
        adapt: Callable[[Adapters], None] = lambda adapters: None,
        most_samples: int = 16,
    ) -> None:
        """`adapt` puts a set of adapters in force; a pass has `most_samples` samples at most."""
        self._compute = compute or ComputeThread("none")
        methods = share_denoiser(module, self._call, _note_cache_call)
        self.denoiser = Denoiser(methods, saturation, self._compute, adapt, most_samples)
        self._signatures = Signatures()
        #: Guards everything below; notified whenever the denoiser becomes free.
        self._changed = threading.Condition()
        self._pending: list[DenoiserCall] = []
        self._requests: set[DenoiserRequest] = set()
        #: The request that has the denoiser to itself.
        self._only: DenoiserRequest | None = None
        self._is_in_pass = False
        #: Whether a pass is already queued in the compute thread.
        self._is_scheduled = False
        self._turn = 0
        self._recorded: list[DenoiserCall] | None = None

    @contextmanager
    def recording(self) -> Iterator[list[DenoiserCall]]:
        """The list of all calls that are made meanwhile; it grows as they come."""
        self._recorded = []
        try:
            yield self._recorded
        finally:
            self._recorded = None

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way, and nothing is left of any."""
        with self._changed:
            return not (self._requests or self._pending or self._only or self._is_in_pass)

    # ------------------------------------------------------------------------- called by the requests' threads

    @contextmanager
    def admitted(self, request: DenoiserRequest, *, alone: bool = False) -> Iterator[RunWork]:
        """Gives the function that runs the request's work. `alone`: no other request is served meanwhile, which a
        cache needs because it keeps its state in the denoiser itself."""
        try:
            with self._changed:
                self._requests.add(request)
                if alone:
                    self._wait_alone(request)
            yield partial(self._run, request)
        finally:
            with self._changed:
                self._requests.discard(request)
                if self._only is request:
                    self._only = None
                self._changed.notify_all()
                self._schedule()

    def _wait_alone(self, request: DenoiserRequest) -> None:
        """Until it has the denoiser to itself. Calls that were waiting before are served before."""
        since = time.monotonic()
        while self._only is not None or any(call.arrived < since for call in self._pending):
            self._changed.wait(CHECK_EVERY_S)
            request.progress.check()
        self._only = request
        while self._is_in_pass:
            self._changed.wait(CHECK_EVERY_S)

    def _run(
        self,
        request: DenoiserRequest,
        work: Callable[Arguments, Result],
        /,
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        done = self._compute.begin(partial(work, *args, **kwargs), request)
        while not wait((done,), CHECK_EVERY_S).done:
            self._give_up_if_unwanted(request, done)
        return done.result()

    def _give_up_if_unwanted(self, request: DenoiserRequest, done: Future[Result]) -> None:
        """Raises when nobody wants the picture any more, unless a pass has its call: the pass ends first."""
        try:
            request.progress.check()
        except errors.ClusterError as error:
            if done.cancel():
                raise
            with self._changed:
                calls = [call for call in self._pending if call.request is request]
                for call in calls:
                    self._pending.remove(call)
                    call.error = error
                    self._compute.post(call.fiber.switch)
            if calls:
                raise

    # --------------------------------------------------------------------------------- called inside fibers

    def _call(self, *args: Argument, **kwargs: Argument) -> Argument:
        """In the place of the denoiser's `forward`."""
        fiber = current_fiber()
        if fiber is None:
            return self._compute.run(self.denoiser.forward, *args, **kwargs)
        request = fiber.owner
        assert isinstance(request, DenoiserRequest)
        samples = samples_in((*args, *kwargs.values()))
        call = DenoiserCall(fiber, request, args, kwargs, samples, self._signatures.of(args, kwargs, samples))
        if self._recorded is not None:
            self._recorded.append(call)
        request.progress.check()
        request.calls += 1
        with self._changed:
            self._pending.append(call)
            self._schedule()
        fiber.pause()
        if call.error is not None:
            raise call.error
        return call.answer

    # ------------------------------------------------------------------------- called in the compute thread

    def _schedule(self) -> None:
        """Queues a pass when there are calls to serve and none is queued yet."""
        if not self._is_scheduled and self._ready():
            self._is_scheduled = True
            self._compute.post(self._serve_next)

    def _serve_next(self) -> None:
        """Makes one pass and lets its fibers continue. The next pass is queued behind all else there is to compute."""
        calls: list[DenoiserCall] = []
        try:
            calls += self._gather()
            self.denoiser.serve(calls, has_cache=self._only is not None)
        # A call that breaks the gathering itself must not stop all later ones: every waiting request gets the error.
        except Exception as error:
            log.exception("the calls of the denoiser that wait cannot be compared")
            calls += self._take_all()
            for call in calls:
                call.error = error
        with self._changed:
            self._is_in_pass = self._is_scheduled = False
            self._changed.notify_all()
            self._schedule()
        for call in calls:
            call.fiber.switch()

    def _gather(self) -> list[DenoiserCall]:
        with self._changed:
            if not (ready := self._ready()):
                return []
            self._turn += 1
            calls = gathered(ready, self._turn, self.denoiser.capacity)
            for call in calls:
                self._pending.remove(call)
            self._is_in_pass = True
            return calls

    def _take_all(self) -> list[DenoiserCall]:
        with self._changed:
            calls, self._pending = self._pending, []
            return calls

    def _ready(self) -> list[DenoiserCall]:
        return [call for call in self._pending if self._only is None or call.request is self._only]


def _note_cache_call(cache_call: CacheCall | None) -> None:
    """Keeps with the request of this fiber what its pipeline tells the cache of the call that comes next."""
    fiber = current_fiber()
    if fiber is not None and isinstance(fiber.owner, DenoiserRequest):
        fiber.owner.cache_call = cache_call
