from __future__ import annotations

import asyncio
from pathlib import Path

from cluster import errors
from tests.cluster.worker.held_workers import PATIENCE_S, Held, Streamed, call, elsewhere, loaded, make_worker, play


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
