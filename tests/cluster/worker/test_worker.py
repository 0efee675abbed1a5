from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from pathlib import Path

import pytest

from cluster import errors
from cluster.calls import Answer
from cluster.worker.worker import INLINE_CHARACTERS
from tests.cluster.worker.held_workers import (
    NAME,
    PATIENCE_S,
    WHERE,
    Held,
    ask,
    busy,
    call,
    elsewhere,
    loaded,
    make_worker,
    play,
)


def test_every_call_gets_its_own_answer(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        outcomes, in_hand = await worker.infer([call("a", "b"), call("c"), call()])
        assert [outcome.outputs for outcome in outcomes] == [["a", "b"], ["c"], []]
        assert [outcome.tokens for outcome in outcomes] == [2, 1, 0]
        assert all(outcome.queue_ms >= 0 and outcome.run_ms >= 0 for outcome in outcomes)
        assert in_hand == 0

    play(scene())


def test_a_worker_says_how_much_it_has_in_hand(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        first = await busy(worker)
        second = asyncio.create_task(worker.infer([call("b", id="gone"), call("c", id="gone")]))
        await asyncio.sleep(0)
        await worker.cancel(["gone"])
        assert (await second)[1] == 1
        Held.gate.set()
        assert await first == [["busy"]]

    play(scene())


def test_a_worker_says_what_it_has_counted_and_does(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        assert (await worker.figures()).ended.requests == 0
        await loaded(worker)
        await worker.infer([call("a", "b"), call("c")])
        counted = await worker.figures()
        assert (counted.ended.requests, counted.ended.faults, counted.ended.timed, counted.tokens) == (2, 0, 2, 3)
        assert counted.batches >= 1 and counted.batch_items == 3 and counted.doing.running == 0
        first = await busy(worker)
        waiting = asyncio.create_task(worker.infer([call("d")]))
        await asyncio.sleep(0)
        doing = (await worker.figures()).doing
        assert (doing.waiting, doing.running) == (1, 1)
        Held.gate.set()
        await first
        await waiting
        assert (await worker.figures()).doing.running == 0

    play(scene())


@pytest.mark.parametrize("started", [False, True])
def test_before_it_is_ready_a_worker_refuses(tmp_path: Path, started: bool) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        Held.gate.clear()
        if started:
            await worker.start(1, WHERE, 1)
        (refusal,) = await ask(worker, call("a"))
        assert isinstance(refusal, errors.ModelLoading)
        assert refusal.message == "Model is loading, please retry later: m"

    play(scene())


def test_one_bad_call_does_not_harm_the_others(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        good, bad, raising, strange, also_good = await ask(
            worker, call("a"), call("bad"), call({"raise": True}), call("unpackable"), call("b")
        )
        assert (good, also_good) == (["a"], ["b"])
        assert type(bad) is errors.BadRequest
        assert type(raising) is errors.InferenceFailed and raising.message == "ValueError: told to raise"
        assert type(strange) is errors.InferenceFailed and strange.message == "TypeError: cannot be packed"
        assert await ask(worker, call("c")) == [["c"]]

    play(scene())


def test_what_needs_no_model_does_not_wait_for_it(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        first = await busy(worker)
        outcomes, _ = await worker.infer([call("answered already")])
        assert outcomes == [Answer(["from memory"], 3)]
        Held.gate.set()
        await first

    play(scene())


@pytest.mark.parametrize(
    ("item", "thread"),
    [
        pytest.param("x" * 10, "MainThread", id="a short text"),
        pytest.param("x" * (INLINE_CHARACTERS + 1), "prepare_0", id="a long text"),
        pytest.param({"text": "x" * (INLINE_CHARACTERS + 1)}, "prepare_0", id="a long text in an object"),
        pytest.param({"image": b"x" * (INLINE_CHARACTERS + 1)}, "prepare_0", id="a picture"),
    ],
)
def test_long_inputs_are_encoded_off_the_event_loop(tmp_path: Path, item: object, thread: str) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        Held.seen.clear()
        await ask(worker, call(item, **{"in": True}))
        assert Held.seen == [thread]

    play(scene())


def test_a_request_whose_time_ran_out_in_the_queue_is_not_computed(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        first = await busy(worker)
        late = asyncio.create_task(ask(worker, call("late", seconds=0)))
        await asyncio.sleep(0)
        Held.gate.set()
        (outcome,) = await late
        assert isinstance(outcome, errors.DeadlineExceeded)
        assert await first == [["busy"]]

    play(scene())


def test_a_request_that_computes_beyond_its_time_is_answered_too_late(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        Held.gate.clear()
        (outcome,) = await ask(worker, call("slow", seconds=0.01))
        assert isinstance(outcome, errors.DeadlineExceeded)

    play(scene())


def test_a_full_queue_refuses(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path, settings={"queue_tokens": 2})
        await loaded(worker)
        first = await busy(worker)
        second = asyncio.create_task(ask(worker, call("a", "b")))
        await asyncio.sleep(0)
        (outcome,) = await ask(worker, call("c"))
        assert isinstance(outcome, errors.Overloaded)
        Held.gate.set()
        assert (await first, await second) == ([["busy"]], [["a", "b"]])

    play(scene())


def test_waiting_work_can_be_cancelled_from_another_loop(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        first = await busy(worker)
        gone = asyncio.create_task(ask(worker, call("a", id="gone")))
        kept = asyncio.create_task(ask(worker, call("b", id="kept")))
        await asyncio.sleep(0)
        assert await elsewhere(worker.cancel(["gone", "unknown"]))
        (refusal,) = await gone
        assert isinstance(refusal, errors.RequestCancelled)
        Held.gate.set()
        assert (await first, await kept) == ([["busy"]], [["b"]])

    play(scene())


def test_cancelling_what_is_not_there_says_so(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        assert not await worker.cancel(["me"])
        await loaded(worker)
        await ask(worker, call("a"))
        assert not await worker.cancel(["me"])

    play(scene())


def test_a_caller_that_goes_away_is_not_counted_any_more(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        first = await busy(worker)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        Held.gate.set()
        assert (await worker.infer([call("a")]))[1] == 0

    play(scene())


def test_an_idle_worker_is_drained_at_once(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        await worker.drain(1)
        assert (await worker.describe())[2].phase == "drained"

    play(scene())


def test_a_draining_worker_finishes_what_it_has_and_takes_nothing_new(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        first = await busy(worker)
        waiting = asyncio.create_task(ask(worker, call("waiting")))
        await asyncio.sleep(0)
        await elsewhere(worker.drain(1))
        (refusal,) = await ask(worker, call("new"))
        assert isinstance(refusal, errors.WorkerDraining)
        seen, report = await worker.report(1, -1, 0)
        assert report.phase == "draining"
        await worker.drain(1)
        Held.gate.set()
        assert (await first, await waiting) == ([["busy"]], [["waiting"]])
        assert (await worker.report(1, seen, PATIENCE_S))[1].phase == "drained"

    play(scene())


@pytest.mark.parametrize("command", ["start", "report", "drain", "set_threads"])
def test_a_supervisor_that_was_replaced_is_refused(tmp_path: Path, command: str) -> None:
    arguments = {"start": (WHERE, 1), "report": (-1, 0.0), "drain": (), "set_threads": (4,)}[command]

    async def scene() -> None:
        worker = make_worker(tmp_path)
        await worker.report(5, -1, 0)
        with pytest.raises(errors.StaleEpoch) as caught:
            await getattr(worker, command)(4, *arguments)
        assert caught.value.message == f"{NAME} obeys epoch 5, not 4."
        assert (await worker.describe())[2].phase == "created"
        await getattr(worker, command)(5, *arguments)

    play(scene())


def test_control_is_answered_while_the_model_computes(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        first = await busy(worker)
        assert (await elsewhere(worker.report(1, -1, 0)))[1].phase == "ready"
        assert await elsewhere(worker.logs(10))
        assert b"cluster_queue_items" in await elsewhere(worker.metrics())
        await elsewhere(worker.set_threads(1, 3))
        assert not first.done()
        Held.gate.set()
        assert await first == [["busy"]]

    play(scene())


def test_a_report_waits_for_news(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        seen, _ = await worker.report(1, -1, 0)
        assert (await worker.report(1, seen, 0.01))[0] == seen
        waiting = asyncio.ensure_future(elsewhere(worker.report(1, seen, PATIENCE_S)))
        await worker.drain(1)
        assert (await waiting)[1].phase == "drained"

    play(scene())


def test_a_new_supervisor_ends_what_the_one_before_waits_for(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        seen, _ = await worker.report(1, -1, 0)
        waiting = asyncio.ensure_future(elsewhere(worker.report(1, seen, 3600)))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await worker.report(2, -1, 0)
        assert (await asyncio.wait_for(waiting, PATIENCE_S))[1].phase == "ready"

    play(scene())


def test_threads_are_set_in_the_thread_of_the_model(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        assert ("model_0", 2) in Held.seen
        await worker.set_threads(1, 6)
        await worker.set_threads(1, 6)
        await ask(worker, call("a"))  # behind it in the same thread
        assert Held.seen.count(("model_0", 6)) == 1

    play(scene())


def test_the_end_of_the_log_can_be_read(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        for number in range(3):
            logging.getLogger("some.library").warning("line %d", number)
        lines = await worker.logs(2)
        assert [line.rpartition(" ")[2] for line in lines] == ["1", "2"]
        assert "WARNING some.library: line 1" in lines[0]

    play(scene())


def test_work_is_counted(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        await ask(worker, call("a", "b"), call("bad"))
        text = (await worker.metrics()).decode()
        labels = f'model="m",replica="{NAME}"'
        assert f"cluster_tokens_total{{{labels}}} 2.0" in text
        assert f'cluster_inference_errors_total{{code="bad_request",{labels}}} 1.0' in text
        assert f"cluster_batch_items_sum{{{labels}}} 2.0" in text

    play(scene())


def test_a_worker_that_is_let_go_leaves_no_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())

    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        await ask(worker, call("a"), call("x" * INLINE_CHARACTERS * 2))

    play(scene())
    Held.seen.clear()
    deadline = time.monotonic() + PATIENCE_S
    while left := set(threading.enumerate()) - before:
        assert time.monotonic() < deadline, left
        gc.collect()
        left.pop().join(0.05)


def test_a_refusal_does_not_wait_for_those_that_came_with_it(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path, settings={"queue_tokens": 2})
        await loaded(worker)
        before = await busy(worker)
        calls = [call(str(n), id=f"c{n}") for n in range(4)]
        outcomes, _ = await worker.infer(calls)
        assert outcomes[:2] == [None, None]
        assert all(isinstance(outcome, errors.Overloaded) for outcome in outcomes[2:])
        collecting = asyncio.create_task(worker.collect(["c0", "c1"]))
        Held.gate.set()
        answers, _ = await collecting
        assert [answer.outputs for answer in answers if isinstance(answer, Answer)] == [["0"], ["1"]]
        await before

    play(scene())


def test_what_nobody_collects_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.worker.outcomes.COLLECT_S", 0.01)

    async def scene() -> None:
        worker = make_worker(tmp_path, settings={"queue_tokens": 1})
        await loaded(worker)
        before = await busy(worker)
        await worker.infer([call(str(n), id=f"c{n}") for n in range(3)])
        assert list(worker._uncollected._taken) == ["c0"]
        await asyncio.sleep(0.05)
        assert not worker._uncollected._taken
        Held.gate.set()
        await before

    play(scene())
