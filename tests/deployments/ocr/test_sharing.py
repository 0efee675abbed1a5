from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from cluster import errors
from deployments.ocr.sharing import Sharing


class Wanted:
    """A `Progress` of a request that is wanted until the test says otherwise."""

    def __init__(self) -> None:
        self.is_wanted = True

    def check(self) -> None:
        if not self.is_wanted:
            raise errors.RequestCancelled("nobody waits")

    def tell(self, fraction: float, stage: str, step: int = 0, steps: int = 0) -> None: ...

    def show(self, preview: bytes) -> None: ...


class Doubling:
    """Answers with twice the sum, once the test allows it to begin."""

    def __init__(self) -> None:
        self.may_begin = threading.Event()
        self.batches: list[list[tuple[int, ...]]] = []

    def __call__(self, values: Sequence[Any]) -> list[float]:
        self.may_begin.wait(10)
        self.batches.append([value.shape for value in values])
        return [2 * float(value.sum()) for value in values]


def ones(width: int) -> Any:
    return np.ones((2, width))


def in_thread(work: Any) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_each_gets_its_own_answers_in_its_own_order() -> None:
    doubling = Doubling()
    doubling.may_begin.set()
    sharing = Sharing("test", doubling, threads=2, room=lambda shape: 4)
    assert sharing.answers([ones(3), ones(1), ones(3)], Wanted()) == [12, 4, 12]
    assert sharing.answers([], Wanted()) == []


def test_pieces_of_one_shape_of_several_pages_share_a_batch_and_no_others_do() -> None:
    doubling = Doubling()
    sharing = Sharing("test", doubling, threads=1, room=lambda shape: 3)
    pages = [in_thread(lambda: sharing.answers([ones(5), ones(7)], Wanted())) for _ in range(4)]
    while sharing.pieces + len(sharing._pending) < 8:
        time.sleep(0.005)
    doubling.may_begin.set()
    for page in pages:
        page.join(10)
    assert sorted(len(batch) for batch in doubling.batches)[-1] == 3
    assert all(len(set(batch)) == 1 for batch in doubling.batches)
    assert sum(map(len, doubling.batches)) == 8


def test_a_page_that_nobody_waits_for_leaves_at_once_and_takes_its_pieces_along() -> None:
    doubling, course, told = Doubling(), Wanted(), []
    sharing = Sharing("test", doubling, threads=1, room=lambda shape: 1)

    def page() -> None:
        try:
            sharing.answers([ones(3)] * 50, course)
        except errors.RequestCancelled as error:
            told.append(error)

    thread = in_thread(page)
    while not sharing.batches:
        time.sleep(0.005)
    course.is_wanted = False
    thread.join(10)
    assert told and not doubling.batches
    doubling.may_begin.set()
    assert sharing.answers([ones(4)], Wanted()) == [16]
    assert sum(map(len, doubling.batches)) == 2


def test_an_error_reaches_the_pages_of_its_batch_and_the_next_are_served() -> None:
    def run(values: Sequence[Any]) -> list[float]:
        if values[0].shape[1] == 13:
            raise ValueError("thirteen")
        return [0.0] * len(values)

    sharing = Sharing("test", run, threads=1, room=lambda shape: 8)
    with pytest.raises(ValueError, match="thirteen"):
        sharing.answers([ones(13)], Wanted())
    assert sharing.answers([ones(1)], Wanted()) == [0.0]


def test_more_threads_compute_more_batches_at_once() -> None:
    together = threading.Barrier(3)

    def run(values: Sequence[Any]) -> list[int]:
        return [together.wait(10) >= 0 for _ in values]

    sharing = Sharing("test", run, threads=1, room=lambda shape: 1)
    sharing.set_threads(3)
    assert sharing.answers([ones(1), ones(2), ones(3)], Wanted()) == [True] * 3


def test_its_threads_end_when_it_is_closed_and_keep_nothing() -> None:
    run = Doubling()
    run.may_begin.set()
    sharing = Sharing[Any, float]("closing", run, threads=3, room=lambda kind: 2)
    assert sharing.answers([ones(1)], Wanted()) == [4.0]
    threads = [thread for thread in threading.enumerate() if thread.name == "closing"]
    assert len(threads) == 3
    sharing.close()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
