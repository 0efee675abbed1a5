"""Fibers of one thread: a fiber that waits lets the others run, and work in other threads blocks nobody."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from deployments.image.fibers import ComputeThread, Fiber, current_fiber

WAIT_S = 10


def here() -> Fiber:
    fiber = current_fiber()
    assert fiber is not None
    return fiber


def test_strands_take_turns_in_one_thread() -> None:
    compute, order, waiting = ComputeThread("cpu"), [], []

    def work(name: str) -> str:
        order.append((name, threading.get_ident()))
        waiting.append(here())
        here().pause()
        order.append((name, threading.get_ident()))
        return name

    both = [compute.begin(lambda name=name: work(name), None) for name in ("one", "two")]  # type: ignore[misc]
    compute.run(lambda: None)
    assert [name for name, _ in order] == ["one", "two"]
    for fiber in reversed(waiting):
        compute.post(fiber.switch)
    assert [done.result(WAIT_S) for done in both] == ["one", "two"]
    assert [name for name, _ in order] == ["one", "two", "two", "one"]
    assert len({thread for _, thread in order}) == 1


def test_on_cpu_all_is_computed_in_the_one_thread() -> None:
    compute = ComputeThread("cpu")
    outside = compute.run(threading.get_ident)
    inside = compute.begin(lambda: compute.run(threading.get_ident), None).result(WAIT_S)
    assert outside == inside != threading.get_ident()


def test_elsewhere_others_go_on_while_a_strand_waits_for_a_stage() -> None:
    compute, may_end, found = ComputeThread("cuda"), threading.Event(), []

    def stage() -> int:
        assert may_end.wait(WAIT_S)
        return threading.get_ident()

    def work() -> Any:
        before = threading.get_ident()
        apart = compute.run(stage)
        return before, apart, threading.get_ident()

    slow = compute.begin(work, None)
    quick = compute.begin(lambda: found.append("quick"), None)
    quick.result(WAIT_S)
    assert not slow.done()
    may_end.set()
    before, apart, after = slow.result(WAIT_S)
    assert before == after != apart


def test_an_error_is_told_where_it_belongs() -> None:
    for device in ("cpu", "cuda"):
        compute = ComputeThread(device)

        def fail() -> None:
            raise ZeroDivisionError("no")

        def survive(compute: ComputeThread = compute) -> str:
            with pytest.raises(ZeroDivisionError):
                compute.run(fail)
            return "alive"

        assert compute.begin(survive, None).result(WAIT_S) == "alive"
        with pytest.raises(ZeroDivisionError):
            compute.begin(fail, None).result(WAIT_S)
        assert compute.begin(lambda: "next", None).result(WAIT_S) == "next"


def test_who_has_not_begun_can_be_cancelled() -> None:
    compute, may_end, ran = ComputeThread("cpu"), threading.Event(), []
    compute.post(lambda: may_end.wait(WAIT_S))
    done = compute.begin(lambda: ran.append(True), None)
    assert done.cancel()
    may_end.set()
    compute.run(lambda: None)
    assert not ran


def test_nothing_that_is_computed_keeps_what_learning_would_need() -> None:
    weight = torch.ones(1, requires_grad=True)
    for device in ("cpu", "cuda"):
        compute = ComputeThread(device)
        assert not compute.begin(lambda: weight * 2, None).result(WAIT_S).requires_grad
        assert (
            not compute.begin(lambda compute=compute: compute.run(lambda: weight * 2), None)  # type: ignore[misc]
            .result(WAIT_S)
            .requires_grad
        )
