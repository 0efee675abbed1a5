from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cluster import errors
from tests.cluster.worker.held_workers import PATIENCE_S, Held, ask, busy, call, loaded, make_worker, play


def test_a_reserved_worker_computes_one_call_and_refuses_the_others(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        before = await busy(worker)
        reserving = asyncio.create_task(worker.reserve("suspect", PATIENCE_S))
        await asyncio.sleep(0)
        (refused,) = await ask(worker, call("x", id="other"))
        assert isinstance(refused, errors.WorkerReserved) and not reserving.done()
        Held.gate.set()
        assert await before == [["busy"]]
        await reserving
        assert isinstance((await ask(worker, call("x", id="other")))[0], errors.WorkerReserved)
        assert await worker.probe() == 0.0
        assert await ask(worker, call("s", id="suspect")) == [["s"]]
        assert worker._model.work.batcher.is_suspicious
        assert await ask(worker, call("x", id="other")) == [["x"]]
        assert not worker._model.work.batcher.is_suspicious

    play(scene())


def test_calls_are_tried_alone_one_after_another_and_others_come_between(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        await worker.reserve("first", PATIENCE_S)
        second = asyncio.create_task(worker.reserve("second", PATIENCE_S))
        await ask(worker, call("a", id="first"))
        assert await ask(worker, call("x", id="other")) == [["x"]]
        await second
        assert await ask(worker, call("b", id="second")) == [["b"]]

    play(scene())


def test_a_reservation_that_nobody_uses_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.worker.reservation.RESERVED_S", 0.01)

    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        await worker.reserve("never sent", PATIENCE_S)
        await asyncio.sleep(0.05)
        assert await ask(worker, call("x", id="other")) == [["x"]]
        await worker.reserve("cancelled", PATIENCE_S)
        await worker.cancel(["cancelled"])
        assert await ask(worker, call("x", id="another")) == [["x"]]

    play(scene())


def test_a_reservation_waits_no_longer_than_its_call(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        before = await busy(worker)
        with pytest.raises(errors.WorkerReserved):
            await worker.reserve("suspect", 0.01)
        Held.gate.set()
        await before
        assert await ask(worker, call("x", id="other")) == [["x"]]

    play(scene())
