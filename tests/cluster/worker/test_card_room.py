from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from cluster import errors
from cluster.cards import Card, CardUser, no_cards
from cluster.facts import ModelFacts
from cluster.launch import Needs
from cluster.settings import Settings
from cluster.status import Claim
from cluster.worker import card_room
from cluster.worker.card_room import CardRoom
from cluster.worker.family import Setup
from cluster.worker.worker import Worker
from tests.cluster.worker.held_workers import NAME, Held, loaded, play
from tests.cluster.worker.test_exhaustion import FULL, OutOfMemoryError
from tests.families import Echo
from tests.make import GIB, make_wanted

CLAIM = Claim(GIB, ((0, 0.5),), 0.0, 10 * GIB)


def card(used_gib: float, *users: CardUser) -> Card:
    return Card("NVIDIA X", "GPU-1", 24 * GIB, int(used_gib * GIB), 0.0, users)


def own(gib: float) -> CardUser:
    return CardUser(os.getpid(), "python", int(gib * GIB))


def taken(gib: float) -> Needs:
    return Needs(memory_bytes=0, card_bytes=int(gib * GIB))


# ------------------------------------------------------------------------------------------------ to blame


def test_one_that_had_less_than_it_may_have_is_short_for_others_sake() -> None:
    room = CardRoom(CLAIM, lambda: [card(23, own(5), CardUser(4711, "python", 18 * GIB))])
    assert room.is_short(FULL, taken(5))
    assert room.when_full


def test_one_that_took_its_part_is_short_for_its_own_sake() -> None:
    room = CardRoom(CLAIM, lambda: [card(23, own(11))])
    assert not room.is_short(FULL, taken(11)), "it had 11 and wanted 2 more, of 12 that it may have"
    assert not room.when_full


def test_others_that_have_let_go_meanwhile_are_not_to_blame() -> None:
    room = CardRoom(CLAIM, lambda: [card(5, own(5))])
    assert room.is_short(FULL, taken(5)) and not room.when_full


@pytest.mark.parametrize("error", [RuntimeError("no kernel"), errors.LoadFailed("no weights")])
def test_other_errors_have_nothing_to_do_with_it(error: Exception) -> None:
    assert not CardRoom(CLAIM, lambda: [card(23)]).is_short(error, taken(1))


def test_where_nobody_tells_of_cards_nothing_is_tried_again() -> None:
    assert not CardRoom(CLAIM, no_cards).is_short(FULL, taken(1))
    assert not CardRoom(Claim(GIB), lambda: [card(23)]).is_short(MemoryError(), taken(0))


# ------------------------------------------------------------------------------------------------- waiting


def test_it_waits_as_long_as_memory_comes_free() -> None:
    readings = iter([card(23), card(20), card(16), card(11), card(0)])
    assert CardRoom(CLAIM, lambda: [next(readings)]).wait(7 * GIB)
    assert next(readings) == card(0), "once its part is free it waits no longer"


def test_it_does_not_wait_for_memory_that_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_room, "STILL_S", 0.3)
    assert not CardRoom(CLAIM, lambda: [card(23)]).wait(7 * GIB)
    # All that it may have is not free, but as much as it has shown to need.
    assert CardRoom(CLAIM, lambda: [card(16)]).wait(7 * GIB)


def test_it_waits_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_room, "ROOM_S", 0.6)
    used = iter(range(10**6, 0, -1))
    assert not CardRoom(CLAIM, lambda: [Card(total_bytes=24 * GIB, used_bytes=23 * GIB + next(used))]).wait(7 * GIB)


def test_what_it_holds_itself_is_room_that_it_has() -> None:
    assert CardRoom(CLAIM, lambda: [card(13, own(1), CardUser(7, "x", 12 * GIB))]).wait(7 * GIB)


# ------------------------------------------------------------------------------------------------- a worker


class Weights:
    """Something that takes memory for as long as anybody knows it."""


class Crowded(Held):
    """Its card is full until `free` is set; while it loads it holds weights."""

    free: ClassVar[threading.Event] = threading.Event()
    held: ClassVar[list[weakref.ref[Weights]]] = []

    def load(self, setup: Setup) -> ModelFacts:
        weights = Weights()
        self.held.append(weakref.ref(weights))
        self.weights = weights
        if not self.free.is_set():
            try:
                raise RuntimeError("the driver says no")
            except RuntimeError as error:
                raise OutOfMemoryError(str(FULL)) from error
        return super().load(setup)


def make_worker(folder: Path, family: type[Echo], read: Callable[[], Sequence[Card]]) -> Worker:
    wanted = make_wanted("m")
    source = wanted.source.model_copy(update={"id": str(folder)})
    wanted = wanted.model_copy(update={"source": source, "family": f"{family.__module__}:{family.__qualname__}"})
    return Worker(NAME, wanted, CLAIM, Settings(home=folder), "cuda", None, read)


@pytest.fixture
def crowded() -> type[Crowded]:
    Crowded.free.clear()
    Crowded.held.clear()
    return Crowded


def test_a_worker_waits_for_what_left_and_is_ready_at_the_second_try(tmp_path: Path, crowded: type[Crowded]) -> None:
    looks_without_weights: list[float] = []

    def read() -> Sequence[Card]:
        """The process that left lets go after three looks at which this one held nothing that others could have."""
        gc.collect()
        if crowded.held and all(weights() is None for weights in crowded.held):
            looks_without_weights.append(time.monotonic())
        if len(looks_without_weights) < 3:
            return [card(22, CardUser(4711, "python", 22 * GIB))]
        crowded.free.set()
        return [card(0)]

    async def scene() -> None:
        report = await loaded(make_worker(tmp_path, crowded, read))
        assert report.phase == "ready", report.error

    play(scene())
    assert len(crowded.held) == 2


def test_a_worker_whose_card_stays_full_fails_with_who_has_it(
    tmp_path: Path, crowded: type[Crowded], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(card_room, "STILL_S", 0.2)

    async def scene() -> None:
        began = time.monotonic()
        report = await loaded(make_worker(tmp_path, crowded, lambda: [card(23, CardUser(4711, "python", 23 * GIB))]))
        assert report.phase == "failed" and isinstance(report.error, errors.LoadFailed)
        assert "others had pid 4711 (python) 23.0 GiB" in report.error.message
        assert "asked for 2.0 GiB more, and 10.0 GiB were claimed" in report.error.message
        assert time.monotonic() - began < card_room.ROOM_S

    play(scene())
    assert len(crowded.held) == 1, "what has shown to need more than is free is not loaded once more"


def test_a_second_failure_is_the_last(tmp_path: Path, crowded: type[Crowded]) -> None:
    def read() -> Sequence[Card]:
        """Others have it until it lets go, and nobody afterwards."""
        is_first = len(crowded.held) == 1 and crowded.held[0]() is not None
        return [card(22, CardUser(7, "x", 22 * GIB))] if is_first else [card(0)]

    async def scene() -> None:
        report = await loaded(make_worker(tmp_path, crowded, read))
        assert report.phase == "failed"
        # Nobody else is to blame by then.
        assert "Launch it with more" in str(report.error)

    play(scene())
    assert len(crowded.held) == 2
