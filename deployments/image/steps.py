"""The denoiser of a model, shared by all requests under way: calls that fit together become one forward pass.

Every request runs a pipeline of its own, untouched, as a strand of the thread that computes; only its call of the
denoiser comes through here and waits until a pass has taken it along. So requests join at any step, with any number of
steps, and each picture is the one it would have become alone. A pass begins when every strand has come as far as it
can without one. Whoever has least left goes first, every few passes whoever waits longest, as in the token queue.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from cluster import errors
from cluster.worker.family import Progress
from deployments.image.cores import Cores, Strand, strand_here
from deployments.image.saturation import Saturation

log = logging.getLogger("cluster.worker.worker")

#: Every so many passes are led by whoever waits longest.
OLDEST_EVERY = 4
#: How often a request whose call waits for its pass looks whether anybody still waits for its picture.
LOOK_S = 0.25
#: Arguments that are the same for every sample of a call: positions, not content.
SHARED = frozenset({"txt_ids", "img_ids", "image_rotary_emb", "freqs_cis", "control_ids"})

#: Of words that come with a mask, so many lengths share a pass: the shorter ones are filled up, and masked.
TEXT, TEXT_MASK = "encoder_hidden_states", "encoder_hidden_states_mask"
TEXT_BUCKET = 64

Adapters = tuple[tuple[str, float], ...]


class Rider:
    """One request, as the denoiser knows it."""

    def __init__(self, course: Progress, cost: float, steps: int, adapters: Adapters = ()) -> None:
        self.course = course
        self.adapters = adapters
        self.calls = 0
        #: Of them, those of the steps that are done.
        self.calls_before = 0
        self._cost = cost
        self.steps = max(steps, 1)
        self.step = 0

    @property
    def cost_left(self) -> float:
        return self._cost * max(self.steps - self.step, 0) / self.steps

    def reach(self, step: int) -> None:
        """So many steps are done."""
        self.step = step
        self.calls_before = self.calls


class _Call:
    __slots__ = ("answer", "args", "arrived", "context", "error", "kwargs", "key", "rider", "samples", "strand")

    def __init__(self, strand: Strand, args: tuple[Any, ...], kwargs: dict[str, Any], samples: int, key: Hashable):
        self.strand = strand
        self.rider: Rider = strand.owner
        self.args = args
        self.kwargs = kwargs
        self.samples = max(samples, 1)
        self.key = key
        #: What a cache in the denoiser is told of the call.
        self.context: tuple[str, Mapping[str, Any]] = "", {}
        self.arrived = time.monotonic()
        self.answer: Any = None
        self.error: Exception | None = None


class Steps:
    def __init__(
        self,
        module: Any,
        saturation: Saturation,
        cores: Cores | None = None,
        *,
        adapt: Callable[[Adapters], None] = lambda adapters: None,
        most: int = 16,
    ) -> None:
        """`adapt` puts a set of adapters in force; `most` samples go into one pass at most."""
        import torch

        self._torch = torch
        forward = _forward_of(module)
        self._cores = cores or Cores("none")
        self._forward = forward
        self._put_in_context = getattr(module, "cache_context", None)
        self.saturation = saturation
        self._adapt = adapt
        self._most = most
        self._fingerprints = _Fingerprints(torch.uint8)
        self._changed = threading.Condition()
        self._pending: list[_Call] = []
        self._riders: set[Rider] = set()
        self._only: Rider | None = None
        self._is_busy = False
        #: Whether there will be a pass that nobody has to ask for.
        self._is_due = False
        self._turn = 0
        self._record: list[_Call] | None = None
        #: How many passes there were, and how many samples they took along.
        self.passes = 0
        self.samples = 0
        module.forward = self._call
        if self._put_in_context is not None:
            module.cache_context = self._context

    # ------------------------------------------------------------------------------------------- measuring

    @contextmanager
    def recording(self) -> Iterator[list[_Call]]:
        """All calls that are made meanwhile."""
        self._record = []
        try:
            yield self._record
        finally:
            self._record = None

    def measure(self, call: _Call, seconds: float) -> None:
        """Fills the table with passes of several copies of one call, while each further one makes all cheaper."""
        until = time.monotonic() + seconds
        copies = 1
        with self._torch.no_grad():
            while copies * call.samples <= self._most:
                cheapest = self.saturation.cap(_shape(call))
                for _ in range(3):
                    try:
                        self._pass([call] * copies)
                    except Exception as error:
                        if not _is_out_of_memory(error):
                            raise
                        self.saturation.refuse(_shape(call), copies * call.samples)
                        return
                if time.monotonic() > until or (copies > 1 and self.saturation.cap(_shape(call)) < cheapest):
                    return
                copies *= 2

    def shape_of(self, call: _Call) -> Hashable:
        return _shape(call)

    def set_threads(self, threads: int) -> None:
        self._cores.set_threads(threads)

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way, and nothing of one is left."""
        with self._changed:
            return not (self._riders or self._pending or self._only or self._is_busy)

    # ------------------------------------------------------------------------------ the threads of requests

    @contextmanager
    def riding(self, rider: Rider, *, alone: bool = False) -> Iterator[Callable[..., Any]]:
        """Gives what runs work whose calls are that rider's. `alone`: nobody else is served meanwhile, for what keeps
        state in the module itself."""
        try:
            with self._changed:
                self._riders.add(rider)
                if alone:
                    self._wait_alone(rider)
            yield partial(self._ride, rider)
        finally:
            with self._changed:
                self._riders.discard(rider)
                if self._only is rider:
                    self._only = None
                self._changed.notify_all()
                self._see_to_it()

    def _wait_alone(self, rider: Rider) -> None:
        """Until it has the denoiser for itself: calls that were there before are served before."""
        since = time.monotonic()
        while self._only is not None or any(call.arrived < since for call in self._pending):
            self._changed.wait(LOOK_S)
            rider.course.check()
        self._only = rider
        while self._is_busy:
            self._changed.wait(LOOK_S)

    def _ride(self, rider: Rider, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        done = self._cores.begin(partial(work, *args, **kwargs), rider)
        while not wait((done,), LOOK_S).done:
            self._look_after(rider, done)
        return done.result()

    def _look_after(self, rider: Rider, done: Future[Any]) -> None:
        """Raises when nobody wants it any more, and it is not in the pass under way: that may take long."""
        try:
            rider.course.check()
        except errors.ClusterError as error:
            if done.cancel():
                raise
            with self._changed:
                calls = [call for call in self._pending if call.rider is rider]
                for call in calls:
                    self._pending.remove(call)
                    call.error = error
                    self._cores.post(call.strand.switch)
            if calls:
                raise

    # ---------------------------------------------------------------------------------- strands of requests

    @contextmanager
    def _context(self, name: str, **told: Any) -> Iterator[None]:
        """Pipelines say before each call which of a step's it is. It lies in the denoiser, where the saying of one
        request would be that of all: so it is put there with the call, and only for a cache."""
        notes = strand.notes if (strand := strand_here()) else {}
        notes["context"] = name, told
        try:
            yield
        finally:
            notes.pop("context", None)

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        strand = strand_here()
        if strand is None:
            return self._cores.run(self._forward, *args, **kwargs)
        rider: Rider = strand.owner
        samples = _samples_in((*args, *kwargs.values()))
        call = _Call(strand, args, kwargs, samples, (rider.adapters, self._key_of(args, kwargs, samples)))
        # Where a pipeline does not say which of a step's calls it is, their order does.
        call.context = strand.notes.get("context") or (f"call {rider.calls - rider.calls_before}", {})
        if self._record is not None:
            self._record.append(call)
        rider.course.check()
        rider.calls += 1
        with self._changed:
            self._pending.append(call)
            self._see_to_it()
        strand.pause()
        if call.error is not None:
            raise call.error
        return call.answer

    # ------------------------------------------------------------------------------- the denoiser's thread

    def _see_to_it(self) -> None:
        """That there will be a pass when there is something to do."""
        if not self._is_due and self._ready():
            self._is_due = True
            self._cores.post(self._work)

    def _work(self) -> None:
        """One pass, and what comes of it; the next waits its turn behind whatever else is to be computed."""
        calls: list[_Call] = []
        try:
            calls += self._gather()
            self._serve(calls)
        # One odd call must not be the end of all others that are to come.
        except Exception as error:
            log.exception("calls of the denoiser cannot be told apart")
            calls += self._take_all()
            for call in calls:
                call.error = error
        with self._changed:
            self._is_busy = self._is_due = False
            self._changed.notify_all()
            self._see_to_it()
        for call in calls:
            call.strand.switch()

    def _gather(self) -> list[_Call]:
        with self._changed:
            if not (ready := self._ready()):
                return []
            self._turn += 1
            lead = self._lead(ready)
            like = [call for call in ready if call.key == lead.key]
            taken = sorted(like, key=lambda call: (call is not lead, call.rider.cost_left))[: self._room(lead)]
            for call in taken:
                self._pending.remove(call)
            self._is_busy = True
            return taken

    def _take_all(self) -> list[_Call]:
        with self._changed:
            calls, self._pending = self._pending, []
            return calls

    def _ready(self) -> list[_Call]:
        return [call for call in self._pending if self._only is None or call.rider is self._only]

    def _lead(self, ready: Sequence[_Call]) -> _Call:
        if self._turn % OLDEST_EVERY == 0:
            return min(ready, key=lambda call: call.arrived)
        return min(ready, key=lambda call: call.rider.cost_left)

    def _room(self, lead: _Call) -> int:
        """Calls that one pass takes along."""
        return max(1, min(self._most, self.saturation.cap(_shape(lead))) // lead.samples)

    def _serve(self, calls: Sequence[_Call]) -> None:
        wanted = [call for call in calls if self._is_wanted(call)]
        if not wanted or (error := self._failure(wanted)) is None:
            return
        if _is_out_of_memory(error):
            if self._torch.cuda.is_available():
                self._torch.cuda.empty_cache()
            self.saturation.refuse(_shape(wanted[0]), len(wanted) * wanted[0].samples)
        if len(wanted) == 1:
            wanted[0].error = as_request_error(error)
            return
        # What fails for several may be the fault of one, and each is told only of its own.
        log.warning("a pass of %d requests failed, each is tried alone: %s", len(wanted), error)
        for call in wanted:
            self._serve([call])

    def _failure(self, calls: Sequence[_Call]) -> Exception | None:
        """Without its frames, which would hold on to all that the pass had made so far."""
        try:
            self._pass(calls)
        # Whatever a model raises, the thread that runs it for everybody goes on.
        except Exception as error:
            is_odd = not _is_out_of_memory(error) and not isinstance(error, errors.ClusterError)
            log.debug("a pass failed", exc_info=is_odd)
            return error.with_traceback(None)
        return None

    def _is_wanted(self, call: _Call) -> bool:
        try:
            call.rider.course.check()
        except errors.ClusterError as error:
            call.error = error
            return False
        return True

    def _pass(self, calls: Sequence[_Call]) -> None:
        self._adapt(calls[0].rider.adapters)
        counts = [call.samples for call in calls]
        args = [_joined("", [call.args[i] for call in calls], counts) for i in range(len(calls[0].args))]
        kwargs = {name: _joined(name, [call.kwargs[name] for call in calls], counts) for name in _names(calls)}
        if len(calls) > 1 and _has_masked_text(calls[0].kwargs):
            kwargs[TEXT], kwargs[TEXT_MASK] = _joined_text([call.kwargs for call in calls])
        started = time.perf_counter()
        with self._in_context(calls[0]):
            found = self._cores.run(self._forward, *args, **kwargs)
        parts = [found] if len(calls) == 1 else _parts_of(found, counts)
        if self._torch.cuda.is_available():
            self._torch.cuda.current_stream().synchronize()
        self.saturation.observe(_shape(calls[0]), sum(counts), time.perf_counter() - started)
        self.passes += 1
        self.samples += sum(counts)
        for call, part in zip(calls, parts, strict=True):
            call.answer = part

    def _in_context(self, call: _Call) -> AbstractContextManager[None]:
        """Of a call that came alone, which has a cache of its own."""
        if self._only is None or self._put_in_context is None:
            return nullcontext()
        name, told = call.context
        entered: AbstractContextManager[None] = self._put_in_context(name, **told)
        return entered

    def _key_of(self, args: Sequence[Any], kwargs: Mapping[str, Any], samples: int) -> Hashable:
        named = [*((str(place), value) for place, value in enumerate(args)), *sorted(kwargs.items())]
        if _has_masked_text(kwargs):
            text = kwargs[TEXT]
            words: Hashable = text.dtype, -(-text.shape[1] // TEXT_BUCKET), text.shape[2]
            named = [(name, value) for name, value in named if name not in (TEXT, TEXT_MASK)]
        else:
            words = None
        return samples, words, tuple((name, self._kind(name, value, samples)) for name, value in named)

    def _kind(self, name: str, value: Any, samples: int) -> Hashable:
        """What two values must have in common to go into one pass."""
        if isinstance(value, self._torch.Tensor):
            if not value.dim():
                return str(value.dtype)
            if name not in SHARED and value.shape[0] == samples:
                return value.dtype, tuple(value.shape[1:]), samples
            return self._fingerprints.of(value)
        if isinstance(value, Mapping):
            return tuple((inner, self._kind(str(inner), value[inner], samples)) for inner in sorted(value))
        if isinstance(value, (list, tuple)):
            return type(value), tuple(self._kind(name, one, samples) for one in value)
        return repr(value)


class _Fingerprints:
    """The content of tensors that a request gives again at every step, read once each."""

    def __init__(self, byte: Any) -> None:
        self._byte = byte
        self._known: dict[int, Hashable] = {}

    def of(self, tensor: Any) -> Hashable:
        known = self._known.get(id(tensor))
        if known is None:
            content = tensor.detach().cpu().contiguous().flatten().view(self._byte).numpy().tobytes()
            known = tensor.dtype, tuple(tensor.shape), hashlib.blake2b(content, digest_size=16).digest()
            self._known[id(tensor)] = known
            weakref.finalize(tensor, self._known.pop, id(tensor), None)
        return known


def _has_masked_text(kwargs: Mapping[str, Any]) -> bool:
    """Whether words of several lengths can share a pass: only a mask tells them from what fills them up."""
    return TEXT_MASK in kwargs and getattr(kwargs.get(TEXT), "ndim", 0) == 3


def _names(calls: Sequence[_Call]) -> Iterator[str]:
    """Of the arguments that are joined as they are."""
    skips = len(calls) > 1 and _has_masked_text(calls[0].kwargs)
    return (name for name in calls[0].kwargs if not (skips and name in (TEXT, TEXT_MASK)))


def _joined_text(calls: Sequence[Mapping[str, Any]]) -> tuple[Any, Any]:
    import torch

    longest = max(kwargs[TEXT].shape[1] for kwargs in calls)
    texts, masks = [], []
    for kwargs in calls:
        text, mask = kwargs[TEXT], kwargs[TEXT_MASK]
        if mask is None:
            mask = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
        missing = longest - text.shape[1]
        texts.append(torch.nn.functional.pad(text, (0, 0, 0, missing)))
        masks.append(torch.nn.functional.pad(mask.bool(), (0, missing)))
    joined = torch.cat(masks)
    return torch.cat(texts), None if bool(joined.all()) else joined


def _forward_of(module: Any) -> Callable[..., Any]:
    """Compiled where the module is: compilation would otherwise reach around what stands in its place."""
    import torch

    forward: Callable[..., Any] = module.forward
    if getattr(module, "_compiled_call_impl", None) is not None:
        module._compiled_call_impl = None
        forward = torch.compile(forward, dynamic=True)
    return forward


def _shape(call: _Call) -> Hashable:
    """What decides how long a pass takes: all but the adapters."""
    return call.key[1] if isinstance(call.key, tuple) else call.key


def _samples_in(values: Sequence[Any]) -> int:
    """How many pictures a call is for: two where guidance compares with and without the prompt."""
    for value in values:
        if hasattr(value, "dim") and value.dim() > 1:
            return int(value.shape[0])
        if isinstance(value, list) and value and hasattr(value[0], "dim"):
            return len(value)
    return 1


def _joined(name: str, values: Sequence[Any], counts: Sequence[int]) -> Any:
    import torch

    first = values[0]
    if len(values) == 1:
        return first
    if isinstance(first, torch.Tensor):
        if not first.dim():
            return torch.cat([value.expand(count) for value, count in zip(values, counts, strict=True)])
        is_shared = name in SHARED or first.shape[0] != counts[0]
        return first if is_shared else torch.cat(list(values))
    if isinstance(first, Mapping):
        return {inner: _joined(str(inner), [value[inner] for value in values], counts) for inner in first}
    if isinstance(first, (list, tuple)) and any(isinstance(one, torch.Tensor) for one in first):
        if isinstance(first, list) and first[0].dim() and first[0].shape[0] != counts[0]:
            return [one for value in values for one in value]
        return type(first)(_joined(name, [value[i] for value in values], counts) for i in range(len(first)))
    if isinstance(first, list) and len(first) == counts[0]:
        return [one for value in values for one in value]
    return first


def _parts_of(found: Any, counts: Sequence[int]) -> list[Any]:
    """What a pass returned, cut into what each call would have got."""
    import torch

    if isinstance(found, torch.Tensor):
        return list(found.split(list(counts)))
    if isinstance(found, list):
        ends = [sum(counts[: place + 1]) for place in range(len(counts))]
        return [found[end - count : end] for end, count in zip(ends, counts, strict=True)]
    if isinstance(found, Mapping):
        parts = [_parts_of(value, counts) for value in found.values()]
        return [type(found)(**dict(zip(found, part, strict=True))) for part in zip(*parts, strict=True)]
    if isinstance(found, tuple):
        return list(zip(*(_parts_of(one, counts) for one in found), strict=True))
    return [found] * len(counts)


def _is_out_of_memory(error: Exception) -> bool:
    told = str(error)
    # On CPU it is an error like any other, in words that depend on the system.
    return type(error).__name__ == "OutOfMemoryError" or ("Allocator" in told and "memory" in told)


def as_request_error(error: Exception) -> Exception:
    if _is_out_of_memory(error):
        return errors.OutOfMemory("This request needs more memory than there is: ask for a smaller picture.")
    return error
