"""Which calls share a pass of the denoiser, and what happens when a pass does not work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from cluster import errors
from deployments.image.denoiser import as_request_error
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


# --------------------------------------------------------------------------------------------- what fits together


def test_calls_that_fit_share_a_pass() -> None:
    queued = QueueUnderTest()
    assert queued.together({"value": 1.0}, {"value": 2.0}, {"value": 3.0}) == [2.0, 4.0, 6.0]
    assert queued.module.passes == [[1.0, 2.0, 3.0]]


def test_all_passes_are_of_one_thread() -> None:
    queued = QueueUnderTest()
    queued.together({"value": 1.0}, {"value": 2.0, "sample": torch.full((1, 5), 2.0)})
    assert len(queued.module.threads) == 1
    assert threading.get_ident() not in queued.module.threads


def test_a_call_of_nobody_goes_straight_through() -> None:
    queued = QueueUnderTest()
    assert queued.module(torch.ones(1, 2))[0].tolist() == [[2.0, 2.0]]
    assert queued.module.threads == {queued.compute.run(threading.get_ident)}


def test_sizes_kinds_and_adapters_do_not_mix() -> None:
    queued = QueueUnderTest()
    calls = [
        {"value": 1.0},
        {"value": 2.0, "sample": torch.full((1, 3, 2), 2.0)},
        {"value": 3.0, "sample": torch.full((1, 2, 2), 3.0, dtype=torch.float64)},
        {"value": 4.0, "request": request(adapters=(("ink", 1.0),))},
        {"value": 5.0, "return_dict": False},
        {"value": 6.0},
    ]
    assert queued.together(*calls) == [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]
    assert sorted(queued.module.passes) == [[1.0, 6.0], [2.0], [3.0], [4.0], [5.0]]
    assert (("ink", 1.0),) in queued.adapted


def test_steps_of_different_times_share_a_pass_each_with_its_own() -> None:
    queued = QueueUnderTest()
    queued.together({"value": 1.0, "timestep": torch.tensor(9.0)}, {"value": 2.0, "timestep": torch.tensor(4.0)})
    assert queued.module.passes == [[1.0, 2.0]]
    assert queued.module.kwargs[-1]["timestep"].tolist() == [9.0, 4.0]


def test_with_and_without_the_prompt_stay_together() -> None:
    queued = QueueUnderTest()
    pairs = [torch.tensor([[value], [value + 0.25]]) for value in (1.0, 2.0)]
    times = [{"value": 0, "sample": pair, "timestep": torch.tensor(float(at))} for at, pair in enumerate(pairs)]
    assert queued.together(*times) == [2.0, 4.0]
    assert queued.module.passes == [[1.0, 1.25, 2.0, 2.25]]
    assert queued.module.kwargs[-1]["timestep"].tolist() == [0.0, 0.0, 1.0, 1.0]


def test_positions_are_shared_by_their_content() -> None:
    queued = QueueUnderTest()
    here, there = torch.arange(6.0).view(3, 2), torch.ones(3, 2)
    calls = [{"value": value, "img_ids": ids.clone()} for value, ids in ((1.0, here), (2.0, here), (3.0, there))]
    queued.together(*calls)
    assert sorted(queued.module.passes) == [[1.0, 2.0], [3.0]]
    joined = next(told["img_ids"] for told in queued.module.kwargs if told["img_ids"].sum() == 15)
    assert torch.equal(joined, here)


def test_words_of_several_lengths_are_filled_up_and_masked() -> None:
    queued = QueueUnderTest()
    short, long = torch.ones(1, 2, 4), torch.ones(1, 3, 4)
    calls = [
        {"value": 1.0, "encoder_hidden_states": short, "encoder_hidden_states_mask": None},
        {"value": 2.0, "encoder_hidden_states": long, "encoder_hidden_states_mask": torch.ones(1, 3, dtype=torch.bool)},
    ]
    queued.together(*calls)
    told = queued.module.kwargs[-1]
    assert queued.module.passes == [[1.0, 2.0]]
    assert told["encoder_hidden_states"].sum(dim=(1, 2)).tolist() == [8.0, 12.0]
    assert told["encoder_hidden_states_mask"].tolist() == [[True, True, False], [True, True, True]]


def test_words_without_a_mask_share_a_pass_only_at_equal_length() -> None:
    queued = QueueUnderTest()
    lengths = [(1.0, 2), (2.0, 3), (3.0, 2)]
    queued.together(*({"value": value, "encoder_hidden_states": torch.ones(1, n, 4)} for value, n in lengths))
    assert sorted(queued.module.passes) == [[1.0, 3.0], [2.0]]


def test_nested_arguments_are_joined_as_they_nest() -> None:
    queued = QueueUnderTest()
    calls = [
        {
            "value": value,
            "added": {"sizes": torch.full((1, 2), value), "kind": "xl"},
            "residuals": [torch.full((1, 3), value), torch.full((1, 5), value)],
            "shapes": [(1, 4, 4)],
        }
        for value in (1.0, 2.0)
    ]
    queued.together(*calls)
    told = queued.module.kwargs[-1]
    assert told["added"]["sizes"].tolist() == [[1.0, 1.0], [2.0, 2.0]]
    assert [one.shape for one in told["residuals"]] == [(2, 3), (2, 5)]
    assert told["shapes"] == [(1, 4, 4), (1, 4, 4)]


# -------------------------------------------------------------------------------------------------- whose turn


def test_whoever_has_least_left_goes_first_and_nobody_waits_for_ever() -> None:
    queued = QueueUnderTest(most_samples=1)
    calls = [{"value": value, "request": request(cost)} for value, cost in ((1.0, 50), (2.0, 9), (3.0, 7), (4.0, 8))]
    queued.together(*calls)
    order = [values[0] for values in queued.module.passes]
    assert sorted(order) == [1.0, 2.0, 3.0, 4.0]
    assert order.index(3.0) < order.index(4.0) < order.index(2.0)
    # The fourth turn belongs to the oldest request.
    assert order.index(1.0) < 3


def test_a_pass_takes_no_more_than_fit() -> None:
    queued = QueueUnderTest(most_samples=2)
    queued.together(*({"value": float(value)} for value in range(1, 6)))
    assert sorted(len(values) for values in queued.module.passes) == [1, 2, 2]


def test_who_is_alone_shares_with_nobody_and_gives_way_afterwards() -> None:
    queued = QueueUnderTest()
    lone, is_in, may_end = request(), threading.Event(), threading.Event()

    def alone() -> float:
        with queued.queue.admitted(lone, alone=True) as run:
            is_in.set()
            assert may_end.wait(10)
            return float(run(queued.module, torch.full((1, 2), 1.0))[0][0, 0])

    def another() -> float:
        with queued.queue.admitted(request()) as run:
            return float(run(queued.module, torch.full((1, 2), 3.0))[0][0, 0])

    first = queued.threads.submit(alone)
    assert is_in.wait(10)
    second = queued.threads.submit(another)
    until(lambda: len(queued.queue._pending) == 1)
    third = queued.threads.submit(alone)
    may_end.set()
    assert [done.result(10) for done in (first, second, third)] == [2.0, 6.0, 2.0]
    assert queued.module.passes == [[1.0], [3.0], [1.0]]
    until(lambda: queued.queue.is_idle)


def test_alone_begins_only_when_the_pass_under_way_is_over() -> None:
    queued = QueueUnderTest()
    queued.module.gate.clear()
    other = queued.ask(1.0)
    assert queued.module.entered.wait(10)
    is_in = threading.Event()

    def alone() -> None:
        with queued.queue.admitted(request(), alone=True):
            is_in.set()

    lone = queued.threads.submit(alone)
    assert not is_in.wait(0.1)
    queued.module.gate.set()
    lone.result(10)
    assert other.result(10) == 2.0


class Contextual(Doubling):
    """Has a context for the cache, like the library's denoisers."""

    def __init__(self) -> None:
        super().__init__()
        self.context: str | None = None
        self.seen: list[str | None] = []

    @contextmanager
    def cache_context(self, name: str, **told: Any) -> Any:
        self.context = name
        yield
        self.context = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.seen.append(self.context)
        return super().forward(*args, **kwargs)


def test_what_a_cache_is_told_of_a_call_is_not_what_others_say_meanwhile() -> None:
    module = Contextual()
    queue = DenoiserQueue(module, Slow())

    def call(name: str) -> None:
        with module.cache_context(name):
            module(torch.ones(1, 2))

    with ThreadPoolExecutor(1) as threads, queue.admitted(request(), alone=True) as run:

        def other() -> None:
            with queue.admitted(request()) as run:
                run(call, "uncond")

        late = threads.submit(other)
        until(lambda: len(queue._pending) == 1)
        run(call, "cond")
        assert module.seen == ["cond"]
    late.result(10)
    # A request that is not alone has no context: it has no cache.
    assert module.seen == ["cond", None]
    assert module.context is None


def test_calls_without_a_name_are_told_apart_by_their_place_in_the_step() -> None:
    module, lone = Contextual(), request()
    queue = DenoiserQueue(module, Slow())

    def two_steps() -> None:
        for step in (1, 2):
            module(torch.ones(1, 2))
            module(torch.ones(1, 2))
            lone.finish(step)

    with queue.admitted(lone, alone=True) as run:
        run(two_steps)
    assert module.seen == ["call 0", "call 1"] * 2


# ---------------------------------------------------------------------------------------------- what goes wrong


def test_a_call_that_fails_fails_alone() -> None:
    queued = QueueUnderTest()
    one, bad, three = queued.together({"value": 1.0}, {"value": -1.0}, {"value": 3.0})
    assert (one, three) == (2.0, 6.0)
    assert isinstance(bad, ZeroDivisionError)
    assert queued.module.passes[0] == [1.0, -1.0, 3.0]
    assert sorted(queued.module.passes[1:]) == [[-1.0], [1.0], [3.0]]


def test_a_call_for_no_picture_at_all_is_not_the_end_of_the_others() -> None:
    queued = QueueUnderTest()
    calls = [{"value": 0.0, "sample": torch.ones(0, 4)}, {"value": 1.0}]
    nothing, something = queued.together(*calls)
    assert isinstance(nothing, IndexError)
    assert something == 2.0


class Lost(Slow):
    def cap(self, shape: Hashable) -> int:
        raise KeyError("the table is lost")


def test_when_nobody_can_be_served_all_are_told() -> None:
    module = Doubling()
    queue = DenoiserQueue(module, Lost())
    for _ in range(2):
        with pytest.raises(KeyError, match="the table is lost"), queue.admitted(request()) as run:
            run(module, torch.ones(1, 2))
    assert not queue._pending


def test_too_many_for_the_memory_are_fewer_from_then_on() -> None:
    queued = QueueUnderTest(fits=2)
    calls = [{"value": float(value)} for value in range(1, 6)]
    assert queued.together(*calls) == [2.0, 4.0, 6.0, 8.0, 10.0]
    assert len(queued.module.passes[0]) == 5
    queued.together(*calls)
    assert max(map(len, queued.module.passes)) == 2


def test_one_that_does_not_fit_by_itself_is_told_so() -> None:
    queued = QueueUnderTest(fits=0)
    (found,) = queued.together({"value": 1.0})
    assert isinstance(found, errors.OutOfMemory)
    assert "smaller picture" in found.message


def test_the_allocator_of_the_cpu_is_understood() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50)
    assert isinstance(as_request_error(raised.value), errors.OutOfMemory)


def test_what_a_failed_pass_made_is_let_go() -> None:
    kept: list[Any] = []

    class Wasteful(torch.nn.Module):  # type: ignore[misc]
        def forward(self, sample: torch.Tensor) -> torch.Tensor:
            import weakref

            made = torch.zeros(1000)
            is_retry = bool(kept)
            if is_retry:
                kept.append(kept[0]() is None)
                return sample
            kept.append(weakref.ref(made))
            raise torch.OutOfMemoryError("too many")

    queued = QueueUnderTest()
    queued.module.forward = Wasteful().forward  # type: ignore[assignment, method-assign]
    queue = DenoiserQueue(queued.module, Slow())
    with ThreadPoolExecutor(2) as threads:

        def call() -> Any:
            with queue.admitted(request()) as run:
                return run(queued.module, torch.ones(1, 2))

        both = [threads.submit(call), threads.submit(call)]
        results = [one.exception(10) for one in both]
    assert results.count(None) >= 1
    assert kept[1] is True


def test_an_aborted_call_is_dropped_before_its_pass() -> None:
    queued, progress = QueueUnderTest(), Watched()
    queued.module.gate.clear()
    first = queued.ask(9.0)
    assert queued.module.entered.wait(10)
    waiting = queued.ask(1.0, request(progress=progress))
    until(lambda: queued.waiting == 1)
    progress.stopped = True
    # Long before the running pass ends.
    assert isinstance(waiting.exception(2), errors.RequestCancelled)
    queued.module.gate.set()
    assert first.result(10) == 18.0
    until(lambda: queued.queue.is_idle)
    assert queued.module.passes == [[9.0]]


def test_an_aborted_call_that_waits_for_the_denoiser_is_dropped() -> None:
    queued, progress, is_in, may_end = QueueUnderTest(), Watched(), threading.Event(), threading.Event()

    def alone() -> None:
        with queued.queue.admitted(request(), alone=True):
            is_in.set()
            assert may_end.wait(10)

    lone = queued.threads.submit(alone)
    assert is_in.wait(10)
    waiting = queued.ask(1.0, request(progress=progress))
    until(lambda: len(queued.queue._pending) == 1)
    progress.stopped = True
    assert isinstance(waiting.exception(2), errors.RequestCancelled)
    assert not queued.queue._pending
    may_end.set()
    lone.result(10)
    until(lambda: queued.queue.is_idle)
    assert queued.module.passes == []


def test_a_failing_adaptation_is_told_to_its_request_only() -> None:
    def adapt(adapters: Adapters) -> None:
        if adapters:
            raise KeyError("no such layer")

    module = Doubling()
    queue = DenoiserQueue(module, Slow(), adapt=adapt)

    def call(adapters: Adapters) -> Any:
        with queue.admitted(request(adapters=adapters)) as run:
            return run(module, torch.ones(1, 2))[0].sum().item()

    with ThreadPoolExecutor(2) as threads:
        bad, good = threads.submit(call, (("ink", 1.0),)), threads.submit(call, ())
        assert isinstance(bad.exception(10), KeyError)
        assert good.result(10) == 4.0


def test_a_compiled_denoiser_stays_compiled() -> None:
    module = torch.nn.Linear(2, 2)
    module.compile(backend="eager")
    queue = DenoiserQueue(module, Slow())
    plain = module.weight @ torch.ones(2) + module.bias
    with queue.admitted(request()) as run:
        found = run(module, torch.ones(1, 2))
    assert torch.allclose(found[0], plain)
    assert module._compiled_call_impl is None
    assert hasattr(queue.denoiser.forward, "_torchdynamo_orig_callable")
