from __future__ import annotations

import asyncio
from pathlib import Path
from typing import ClassVar

from cluster import errors
from cluster.calls import Answer
from cluster.facts import ModelFacts
from cluster.status import Report
from cluster.worker.family import Setup
from cluster.worker.worker import Worker
from tests.cluster.worker.held_workers import (
    PATIENCE_S,
    WHERE,
    Held,
    Streamed,
    ask,
    busy,
    call,
    loaded,
    make_worker,
    play,
)


class Heavy(Held):
    """Has weights, and measures something of itself that takes long."""

    measured: ClassVar[list[int]] = []
    weights: bytes

    def load(self, setup: Setup) -> ModelFacts:
        self.weights = b"w" * 200_000_000
        setup.measure("speed", lambda: self.measured.append(1))
        return super().load(setup)


class Kept(Held):
    """Something else knows of it."""

    every: ClassVar[list[Kept]] = []

    def load(self, setup: Setup) -> ModelFacts:
        self.every.append(self)
        return super().load(setup)


async def phase(worker: Worker, *phases: str) -> Report:
    seen = -1
    async with asyncio.timeout(PATIENCE_S):
        while True:
            seen, report = await worker.report(1, seen, PATIENCE_S)
            if report.phase in phases:
                return report


def test_a_dozing_worker_has_given_its_weights_back_and_loads_them_again(tmp_path: Path) -> None:
    async def scene() -> None:
        Heavy.measured.clear()
        worker = make_worker(tmp_path, Heavy)
        ready = await loaded(worker)
        assert await ask(worker, call("a")) == [["a"]]
        await worker.doze(1)
        dozing = await phase(worker, "dozing", "drained")
        assert (dozing.phase, dozing.pid) == ("dozing", ready.pid)
        assert ready.memory_bytes - dozing.memory_bytes > 150_000_000
        assert [type(error) for error in await ask(worker, call("b"))] == [errors.WorkerDraining]
        again = await loaded(worker)
        assert (again.phase, again.loads, again.pid) == ("ready", 2, ready.pid)
        assert await ask(worker, call("b")) == [["b"]]
        assert len(Heavy.measured) == 1

    play(scene())


def test_what_it_has_in_hand_is_answered_before_it_dozes(tmp_path: Path) -> None:
    async def scene() -> None:
        for family in (Held, Streamed):
            worker = make_worker(tmp_path, family)
            await loaded(worker)
            first = await busy(worker)
            await worker.doze(1)
            assert (await worker.describe())[2].phase == "nodding"
            assert [type(error) for error in await ask(worker, call("b"))] == [errors.WorkerDraining]
            Held.gate.set()
            assert await first == [["busy"]]
            await phase(worker, "dozing")

    play(scene())


def test_one_that_is_needed_before_it_dozes_keeps_its_model(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        first = await busy(worker)
        await worker.doze(1)
        await worker.start(1, WHERE, 2)
        assert (await phase(worker, "ready")).loads == 1
        Held.gate.set()
        assert await first == [["busy"]]
        assert await ask(worker, call("b")) == [["b"]]

    play(scene())


def test_one_that_is_needed_while_it_drops_its_model_loads_it_again(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path, Heavy)
        await loaded(worker)
        await worker.doze(1)
        await worker.start(1, WHERE, 2)
        report = await phase(worker, "ready")
        assert isinstance((await worker.infer([call("b")]))[0][0], Answer) or report.loads == 1
        assert await ask(worker, call("c")) == [["c"]]

    play(scene())


def test_one_whose_model_is_known_elsewhere_gives_it_back_by_its_end(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path, Kept)
        await loaded(worker)
        await worker.doze(1)
        assert (await phase(worker, "dozing", "drained")).phase == "drained"
        Kept.every.clear()

    play(scene())


def test_one_that_is_told_to_end_while_it_finishes_ends_and_does_not_doze(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        first = await busy(worker)
        await worker.doze(1)
        await worker.drain(1)
        Held.gate.set()
        assert await first == [["busy"]]
        assert (await phase(worker, "dozing", "drained")).phase == "drained"

    play(scene())
