"""What happens to calls of the denoiser when a pass does not work, or nobody wants it any more."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from cluster import errors
from deployments.image.denoiser import as_request_error
from deployments.image.denoiser_queue import DenoiserQueue
from deployments.image.loras import Adapters
from tests.deployments.image.doubling import Doubling, QueueUnderTest, Slow, request, until
from tests.deployments.image.painter import Watched


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
