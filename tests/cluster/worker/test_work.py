from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster import errors
from cluster.settings import Settings
from cluster.worker.family import BatchHints, Prepared, Progress, Stepped
from cluster.worker.metrics import WorkerMetrics
from cluster.worker.work import MOST_INPUTS, BatchedWork, SteppedWork, filled
from tests.cluster.worker.held_workers import PATIENCE_S, Held, Streamed, call, elsewhere, loaded, make_worker, play
from tests.families import Echo


def test_what_streams_warms_up_answers_and_fails_one_by_one(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path, Streamed)
        await loaded(worker)
        assert Streamed.steps == ["hello"]  # the example
        Held.seen.clear()
        outcomes, _ = await worker.infer([call("a", "b"), call("bad"), call("c")])
        assert outcomes[0].outputs == ["a", "b"] and outcomes[2].outputs == ["c"]
        assert isinstance(outcomes[1], errors.InferenceFailed) and "cannot be counted" in outcomes[1].message
        # They are prepared off the event loop even if the prompt is short, since pictures may come with it.
        assert [name.startswith("prepare") for name in Held.seen] == [True] * 3

    play(scene())


def test_a_stream_is_watched_and_stops_at_the_step_after_it_is_cancelled(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path, Streamed)
        await loaded(worker)
        assert await worker.watch("r", -1, 0) is None
        Held.entered.clear()
        asked = asyncio.create_task(worker.infer([call(5000, id="r#1")]))
        await asyncio.to_thread(Held.entered.wait, PATIENCE_S)
        view = await worker.watch("r", -1, 1)
        assert view is not None and view.state in ("waiting", "running")
        later = await worker.watch("r", view.version, 5)
        assert later is not None and later.version > view.version
        assert await elsewhere(worker.cancel(["r"], 60.0))
        then = len(Streamed.steps)
        (outcome,), _ = await asked
        assert isinstance(outcome, errors.RequestCancelled)
        await asyncio.sleep(0.05)
        assert len(Streamed.steps) <= then + 1
        (again,), _ = await worker.infer([call("a", id="r#2")])
        assert isinstance(again, errors.RequestCancelled) and "refused" in again.message

    play(scene())


def test_a_worker_busy_with_a_stream_is_alive(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path, Streamed, settings={"probe_s": 0.01})
        await loaded(worker)
        Held.entered.clear()
        Held.gate.clear()
        asked = asyncio.create_task(worker.infer([call("slow")]))
        await asyncio.to_thread(Held.entered.wait, PATIENCE_S)
        await asyncio.sleep(0.02)
        assert await worker.probe() == 0.0
        assert Streamed.steps.count("hello") == 1  # the probe did not run the model
        Held.gate.set()
        await asked
        await asyncio.sleep(0.02)
        assert await worker.probe() > 0
        assert Streamed.steps.count("hello") == 2

    play(scene())


def test_a_stream_of_a_draining_worker_is_finished(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path, Streamed)
        await loaded(worker)
        Held.entered.clear()
        asked = asyncio.create_task(worker.infer([call(20)]))
        await asyncio.to_thread(Held.entered.wait, PATIENCE_S)
        await worker.drain(1)
        (outcome,), _ = await asked
        assert outcome.outputs == [20]
        _, report = await worker.report(1, -1, 0)
        assert report.phase == "drained"

    play(scene())


def test_a_batch_is_filled_with_the_same_inputs_again_and_again() -> None:
    assert filled(Prepared(["a", "b"], [3, 4]), 15) == (["a", "b", "a", "b"], 14)
    assert filled(Prepared(["long"], [99]), 15) == (["long"], 99), "a batch has one input at least"
    assert len(filled(Prepared(["a"], [0]), 15)[0]) == MOST_INPUTS
    assert filled(Prepared([], [0]), 15) == ([], 0), "what is answered without a batch"


class Counting(Echo):
    def __init__(self, parallel: int = 1) -> None:
        self.pace = BatchHints(batch_tokens=8, parallel=parallel)
        self.batches: list[int] = []
        self._meeting = threading.Barrier(parallel)

    def run(self, batch: Sequence[Any]) -> Sequence[Any]:
        if len(batch) == 8:
            self._meeting.wait(10)
        self.batches.append(len(batch))
        return list(batch)


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_model_is_strained_with_as_many_full_batches_at_once_as_it_takes(parallel: int) -> None:
    family = Counting(parallel)
    work = BatchedWork(family, "w", Settings(), WorkerMetrics("m", "w"))
    work.warm_up(Prepared(["a"] * 100, [1] * 100))
    assert work.strain(Prepared(["a"], [1]))
    assert family.batches == [100, *[8] * parallel]


def test_what_would_take_too_long_is_left_out() -> None:
    family = Counting()
    work = BatchedWork(family, "w", Settings(), WorkerMetrics("m", "w"))
    work.warm_up(Prepared(["a"], [1]))
    assert not work.strain(Prepared(["long"], [10**9]))
    assert family.batches == [1]


class Slow(Stepped, Echo):  # type: ignore[misc]
    def __init__(self, speed: float | None) -> None:
        self.pace = BatchHints(speed=speed)
        self.streamed: list[Any] = []

    def stream(self, value: Any, progress: Progress) -> Any:
        self.streamed.append(value)


@pytest.mark.parametrize(
    ("speed", "example_s", "is_measured"),
    [(100.0, 60.0, True), (1.0, 0.1, False), (None, 0.1, True), (None, 60.0, False)],
)
def test_a_model_that_works_for_seconds_is_strained_where_its_speed_allows(
    speed: float | None, example_s: float, is_measured: bool
) -> None:
    """Where its speed is not known, by the time that its example took."""
    family = Slow(speed)
    work = SteppedWork(family, "w")
    work._example_s = example_s
    assert work.strain(Prepared(["page"], [1], costs=[50.0])) == is_measured
    assert family.streamed == (["page"] if is_measured else [])
