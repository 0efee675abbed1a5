"""Strands of one thread: whoever waits lets the others go on, and what is computed elsewhere keeps nobody waiting."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from deployments.image.cores import Cores, Strand, strand_here

WAIT_S = 10


def here() -> Strand:
    strand = strand_here()
    assert strand is not None
    return strand


def test_strands_take_turns_in_one_thread() -> None:
    cores, order, waiting = Cores("cpu"), [], []

    def work(name: str) -> str:
        order.append((name, threading.get_ident()))
        waiting.append(here())
        here().pause()
        order.append((name, threading.get_ident()))
        return name

    both = [cores.begin(lambda name=name: work(name), None) for name in ("one", "two")]
    cores.run(lambda: None)
    assert [name for name, _ in order] == ["one", "two"]
    for strand in reversed(waiting):
        cores.post(strand.switch)
    assert [done.result(WAIT_S) for done in both] == ["one", "two"]
    assert [name for name, _ in order] == ["one", "two", "two", "one"]
    assert len({thread for _, thread in order}) == 1


def test_on_cpu_all_is_computed_in_the_one_thread() -> None:
    cores = Cores("cpu")
    outside = cores.run(threading.get_ident)
    inside = cores.begin(lambda: cores.run(threading.get_ident), None).result(WAIT_S)
    assert outside == inside != threading.get_ident()


def test_elsewhere_others_go_on_while_a_strand_waits_for_a_stage() -> None:
    cores, may_end, found = Cores("cuda"), threading.Event(), []

    def stage() -> int:
        assert may_end.wait(WAIT_S)
        return threading.get_ident()

    def work() -> Any:
        before = threading.get_ident()
        apart = cores.run(stage)
        return before, apart, threading.get_ident()

    slow = cores.begin(work, None)
    quick = cores.begin(lambda: found.append("quick"), None)
    quick.result(WAIT_S)
    assert not slow.done()
    may_end.set()
    before, apart, after = slow.result(WAIT_S)
    assert before == after != apart


def test_an_error_is_told_where_it_belongs() -> None:
    for device in ("cpu", "cuda"):
        cores = Cores(device)

        def fail() -> None:
            raise ZeroDivisionError("no")

        def survive(cores: Cores = cores) -> str:
            with pytest.raises(ZeroDivisionError):
                cores.run(fail)
            return "alive"

        assert cores.begin(survive, None).result(WAIT_S) == "alive"
        with pytest.raises(ZeroDivisionError):
            cores.begin(fail, None).result(WAIT_S)
        assert cores.begin(lambda: "next", None).result(WAIT_S) == "next"


def test_who_has_not_begun_can_be_cancelled() -> None:
    cores, may_end, ran = Cores("cpu"), threading.Event(), []
    cores.post(lambda: may_end.wait(WAIT_S))
    done = cores.begin(lambda: ran.append(True), None)
    assert done.cancel()
    may_end.set()
    cores.run(lambda: None)
    assert not ran


def test_nothing_that_is_computed_keeps_what_learning_would_need() -> None:
    weight = torch.ones(1, requires_grad=True)
    for device in ("cpu", "cuda"):
        cores = Cores(device)
        assert not cores.begin(lambda: weight * 2, None).result(WAIT_S).requires_grad
        assert not cores.begin(lambda cores=cores: cores.run(lambda: weight * 2), None).result(WAIT_S).requires_grad
