from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster import errors
from cluster.cards import Card, CardUser
from cluster.launch import Needs
from cluster.status import Claim
from cluster.worker.exhaustion import bytes_asked, crowded_out, is_out_of_memory, out_of_memory
from tests.cluster.worker.held_workers import Held, loaded, make_worker, play
from tests.make import GIB


class OutOfMemoryError(RuntimeError):
    """Torch's class of that name, raised by a card."""


FULL = OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.00 GiB of which 1.10 GiB is free."
)
HOST = RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to "
                    "allocate 8589934592 bytes.")  # fmt: skip


@pytest.mark.parametrize("error", [FULL, HOST, MemoryError(), errors.OutOfMemory("This picture needs more.")])
def test_memory_that_ran_out_is_recognised(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("no kernel"), errors.LoadFailed("no weights"), ValueError("memory")])
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_the_sentence_says_how_much_of_a_card_there_was_and_what_to_do() -> None:
    claim, taken = Claim(2 * GIB, ((0, 0.5),), 0.0, 10 * GIB), Needs(memory_bytes=GIB, card_bytes=9 * GIB)
    error = out_of_memory("flux", FULL, "computed its largest request", claim, taken)
    assert error.message == (
        "flux could not be loaded: its card had no room left when the model computed its largest request. It took "
        "9.0 GiB and asked for 2.00 GiB more, and 10.0 GiB were claimed. Launch it with more (memory=15GiB), or "
        "smaller: `cluster launch --dry-run` names options with which it takes less."
    )


def test_what_was_asked_is_read_in_every_unit() -> None:
    assert (bytes_asked(FULL), bytes_asked(RuntimeError("Tried to allocate 20.50 MiB."))) == (2 * GIB, 41 * 2**19)
    assert bytes_asked(RuntimeError("you tried to allocate 8589934592 bytes")) == 8 * GIB
    assert bytes_asked(RuntimeError("out of memory")) == 0


def test_who_has_the_card_is_told_where_it_had_less_than_it_may_have() -> None:
    users = (CardUser(7, "python", 3 * GIB), CardUser(4711, "python", 12 * GIB), CardUser(9))
    card = Card("NVIDIA X", "GPU-1", 24 * GIB, 23 * GIB, users=users)
    claim, taken = Claim(0, ((2, 0.5),), 0.0, 10 * GIB), Needs(memory_bytes=GIB, card_bytes=5 * GIB)
    assert crowded_out("flux", FULL, claim, taken, [card]).message == (
        "flux could not be loaded, also at a second try: it took 5.0 GiB of its card and asked for 2.0 GiB more, and "
        "10.0 GiB were claimed; of card 2 (NVIDIA X), 24.0 GiB large, 1.0 GiB were free, and others had pid 4711 "
        "(python) 12.0 GiB, pid 7 (python) 3.0 GiB, pid 9 (of another container or user). End what does not belong "
        "there, or launch it on another card."
    )


def test_main_memory_is_called_so() -> None:
    error = out_of_memory("m", HOST, "was loaded", Claim(GIB), Needs(memory_bytes=3 * GIB))
    assert "main memory had no room left when the model was loaded" in error.message
    assert "3.0 GiB and asked for 8589934592 bytes more, and 1.0 GiB were claimed" in error.message


class Large(Held):
    """Its card is full as soon as it computes."""

    def run(self, batch: Sequence[Any]) -> Sequence[Any]:
        raise FULL


def test_a_worker_whose_card_is_full_at_the_warm_up_fails_with_that_sentence(tmp_path: Path) -> None:
    async def scene() -> None:
        report = await loaded(make_worker(tmp_path, Large))
        assert report.phase == "failed" and isinstance(report.error, errors.LoadFailed)
        assert "asked for 2.00 GiB more, and 1.0 GiB were claimed" in report.error.message
        assert "computed its largest request" in report.error.message

    play(scene())
