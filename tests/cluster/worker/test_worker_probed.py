"""Whether a worker can still compute: what a probe finds, and what it says of itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cluster import errors
from tests.cluster.worker.held_workers import (
    PATIENCE_S,
    Broken,
    Held,
    ask,
    busy,
    call,
    loaded,
    make_worker,
    play,
)


def test_a_probe_runs_the_model(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        Held.entered.clear()
        assert await worker.probe() >= 0
        assert Held.entered.is_set()

    play(scene())


def test_a_model_that_has_just_computed_needs_no_probe(tmp_path: Path) -> None:
    """A probe would have to wait behind everything in the queue of a busy worker."""

    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        await ask(worker, call("a"))
        first = await busy(worker)
        assert await worker.probe() == 0
        assert not first.done()
        Held.gate.set()
        await first

    play(scene())


def test_after_a_failure_a_probe_computes_though_the_model_has_just_worked(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        await ask(worker, call("b"))
        assert await worker.probe() == 0
        broken = Broken()
        broken.load(Held.seen[0])
        worker._model.work._family = broken
        (outcome,), _ = await worker.infer([call("a")])
        assert isinstance(outcome, errors.InferenceFailed)
        with pytest.raises(errors.InferenceFailed):
            await worker.probe()

    play(scene())


def test_a_busy_worker_that_failed_a_call_is_asked_for_its_example_all_the_same(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        await ask(worker, call({"break": True}))
        Held.gate.clear()
        Held.entered.clear()
        busy = asyncio.create_task(ask(worker, call("x")))
        assert await asyncio.to_thread(Held.entered.wait, PATIENCE_S)
        asking = asyncio.create_task(worker.failing())
        await asyncio.sleep(0.01)
        assert not asking.done()
        Held.gate.set()
        assert await asking == ("me",)
        await busy
        # Nothing is tried alone where whatever is tried would fail.
        with pytest.raises(errors.WorkerDraining, match="fails its own example"):
            await worker.reserve("suspect", 5.0)
        outcomes, _ = await worker.infer([call("y")])
        assert isinstance(outcomes[0], errors.InferenceFailed), "it is not kept for the suspect"

    play(scene())


def test_a_worker_says_which_calls_it_had_when_it_began_to_fail(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        await ask(worker, call("a", id="1"), call({"break": True}, id="2"), call("b", id="3"))
        assert sorted(await worker.failing() or ()) == ["1", "2", "3"]
        await ask(worker, call("c", id="4"))
        assert sorted(await worker.failing() or ()) == ["1", "2", "3"]

    play(scene())


def test_a_worker_that_drains_says_all_the_same_that_it_is_broken(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        await ask(worker, call({"break": True}))
        await worker.drain(1)
        assert await worker.failing() == ("me",)

    play(scene())


def test_a_worker_that_is_kept_for_one_call_says_all_the_same_that_it_is_broken(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        Held.gate.clear()
        Held.entered.clear()
        breaking = asyncio.create_task(ask(worker, call({"break": True})))
        assert await asyncio.to_thread(Held.entered.wait, PATIENCE_S)
        reserving = asyncio.create_task(worker.reserve("suspect", 5.0))
        await asyncio.sleep(0)
        Held.gate.set()
        await breaking
        assert not reserving.done() and await worker.failing() == ("me",)
        with pytest.raises(errors.WorkerDraining):
            await reserving

    play(scene())


def test_a_worker_that_failed_for_its_input_is_not_broken(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        assert await worker.failing() is None
        await loaded(worker)
        await ask(worker, call({"raise": True}))
        await worker.reserve("suspect", 5.0)
        assert await worker.failing() is None

    play(scene())


def test_a_probe_of_a_model_that_raises_fails(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        broken = Broken()
        broken.load(Held.seen[0])
        worker._model.work._family = broken
        with pytest.raises(errors.InferenceFailed):
            await worker.probe()

    play(scene())


def test_a_probe_of_a_model_that_hangs_fails(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path, settings={"probe_timeout_s": 0.01})
        await loaded(worker)
        # The process that it would end is this one.
        worker._model.work.batcher.on_hung = lambda batch, seconds: None
        Held.gate.clear()
        with pytest.raises(errors.DeadlineExceeded):
            await worker.probe()

    play(scene())


def test_a_probe_of_a_worker_that_is_not_ready_says_so(tmp_path: Path) -> None:
    """The supervisor takes neither of these for an answer of the model."""

    async def scene() -> None:
        worker = make_worker(tmp_path)
        with pytest.raises(errors.ModelLoading):
            await worker.probe()
        await loaded(worker)
        await worker.drain(1)
        with pytest.raises(errors.WorkerDraining):
            await worker.probe()

    play(scene())
