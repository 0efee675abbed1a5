from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from cluster import errors
from cluster.calls import Answer, Call
from cluster.facts import ModelFacts
from cluster.launch import Wanted
from cluster.metrics import page
from cluster.settings import Settings
from cluster.status import Claim, Report
from cluster.worker.family import Prepared, Progress, Setup, Stepped, Stop, Talking, Tell
from cluster.worker.worker import INLINE_CHARACTERS, Worker
from tests.families import Echo
from tests.make import GIB, make_wanted

PATIENCE_S = 10.0
NAME = "worker:m:1:0-a"
WHERE = ("node-1", "10.0.0.1")


class Held(Echo):
    """An echo whose model can be made to wait, and that remembers what it was asked."""

    gate: ClassVar[threading.Event] = threading.Event()
    entered: ClassVar[threading.Event] = threading.Event()
    seen: ClassVar[list[Any]] = []

    def load(self, setup: Setup) -> ModelFacts:
        self.seen.append(setup)
        return super().load(setup)

    def prepare(self, ability: str, items: Sequence[Any], params: Mapping[str, Any]) -> Prepared:
        if items == ["answered already"]:
            return Prepared([], [3], answers=["from memory"])
        if params.get("in"):
            self.seen.append(threading.current_thread().name)
        return super().prepare(ability, items, params)

    def run(self, batch: Sequence[Any]) -> Sequence[Any]:
        self.entered.set()
        assert self.gate.wait(PATIENCE_S)
        return super().run(batch)

    def pack(self, outputs: list[Any], params: Mapping[str, Any]) -> Any:
        if "unpackable" in outputs:
            raise TypeError("cannot be packed")
        return outputs

    def set_threads(self, threads: int) -> None:
        self.seen.append((threading.current_thread().name, threads))


class Streamed(Stepped, Held):  # type: ignore[misc]
    """Works on each value by itself, in as many steps as a number says, or one."""

    steps: ClassVar[list[Any]] = []

    def prepare(self, ability: str, items: Sequence[Any], params: Mapping[str, Any]) -> Prepared:
        self.seen.append(threading.current_thread().name)
        return Prepared(list(items), [1] * len(items), costs=[float(params.get("cost", 1))] * len(items))

    def stream(self, value: Any, course: Progress) -> Any:
        count = value if isinstance(value, int) else 1
        for step in range(count):
            course.check()
            self.steps.append(value)
            course.tell((step + 1) / count, "counting", step + 1, count)
            self.entered.set()
            assert self.gate.wait(PATIENCE_S)
            time.sleep(0.001)
        if value == "bad":
            raise ValueError("cannot be counted")
        return value

    def run(self, batch: Sequence[Any]) -> Sequence[Any]:
        raise AssertionError("what streams is not batched")


class Conversing(Talking, Held):  # type: ignore[misc]
    """Brings a scheduler of its own."""

    def begin(self, value: Any, tell: Tell) -> Stop:
        raise AssertionError("no worker can serve this")


class Broken(Echo):
    def run(self, batch: Sequence[Any]) -> Sequence[Any]:
        raise RuntimeError("the kernel is not there")


@pytest.fixture(autouse=True)
def held() -> Iterator[type[Held]]:
    """Open at first; and the root logger as it was, which every worker listens to."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    Held.gate.set()
    Held.entered.clear()
    Held.seen.clear()
    Streamed.steps.clear()
    yield Held
    Held.gate.set()
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)


def make_worker(folder: Path, family: type[Echo] = Held, *, settings: Mapping[str, Any] = {}, **options: Any) -> Worker:
    wanted = make_wanted("m", options=options)
    wanted = wanted.model_copy(
        update={
            "source": wanted.source.model_copy(update={"id": str(folder)}),
            "family": f"{family.__module__}:{family.__qualname__}",
        }
    )
    return Worker(NAME, wanted, Claim(GIB), Settings(home=folder, **settings))


async def loaded(worker: Worker) -> Report:
    await worker.start(1, WHERE, 2)
    seen = -1
    async with asyncio.timeout(PATIENCE_S):
        while True:
            seen, report = await worker.report(1, seen, PATIENCE_S)
            if report.phase in ("ready", "failed"):
                return report


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, PATIENCE_S * 2))


def elsewhere(work: Coroutine[Any, Any, Any]) -> Any:
    """On a loop of its own in a thread of its own, as control calls come."""
    return asyncio.to_thread(asyncio.run, work)


def call(*items: Any, id: str = "me", seconds: float = 60, **params: Any) -> Call:
    return Call(id, list(items), params, seconds, "infer")


async def ask(worker: Worker, *calls: Call) -> list[Any]:
    """Outputs or errors, one per call."""
    outcomes, _ = await worker.infer(calls)
    return [outcome.outputs if isinstance(outcome, Answer) else outcome for outcome in outcomes]


async def busy(worker: Worker) -> asyncio.Task[list[Any]]:
    """A request that is being computed until the gate opens."""
    Held.gate.clear()
    Held.entered.clear()
    task = asyncio.create_task(ask(worker, call("busy", id="busy")))
    assert await asyncio.to_thread(Held.entered.wait, PATIENCE_S)
    return task


# ---------------------------------------------------------------------------------------------------- loading


def test_a_worker_loads_warms_up_and_is_ready(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path, steps=7)
        assert (await worker.describe())[2].phase == "created"
        report = await loaded(worker)
        assert (report.phase, report.progress.stage, report.progress.fraction) == ("ready", "ready", 1.0)
        assert (report.node_id, report.node_ip) == WHERE
        assert report.pid and report.memory_bytes > 0 and report.load_seconds > 0
        assert report.facts.listed["pid"] == report.pid
        setup = Held.seen[0]
        assert (setup.options.steps, setup.folder, setup.device, setup.threads) == (7, tmp_path, "cpu", 2)
        assert Held.entered.is_set()  # by the example, before anybody asked

    play(scene())


def test_the_way_to_ready_can_be_followed(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path, load_seconds=0.2)
        fractions, seen, phase = [], -1, ""
        await worker.start(1, WHERE, 1)
        while phase != "ready":
            seen, report = await worker.report(1, seen, PATIENCE_S)
            fractions.append(report.progress.fraction)
            phase = report.phase
        assert len(set(fractions)) > 3
        assert all(0 <= fraction <= 0.95 for fraction in fractions[:-1])
        assert fractions[-1] == 1.0

    play(scene())


@pytest.mark.parametrize(
    ("family", "options", "says"),
    [
        pytest.param(Echo, {"load_error": "no such layer"}, "ValueError: no such layer", id="the load raises"),
        pytest.param(Echo, {"steps": "many"}, "steps", id="an option it does not take"),
        pytest.param(Broken, {}, "RuntimeError: the kernel is not there", id="the warm-up raises"),
        pytest.param(Conversing, {}, "workers cannot serve yet", id="a contract that no worker serves"),
    ],
)
def test_a_failed_load_says_why_and_how_its_log_ended(
    tmp_path: Path, family: type[Echo], options: dict[str, Any], says: str
) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path, family, **options)
        report = await loaded(worker)
        assert report.phase == "failed"
        assert isinstance(report.error, errors.LoadFailed)
        assert report.error.message.startswith("m could not be loaded: ") and says in report.error.message
        assert 0 < len(report.log_tail) <= 20
        assert says in "\n".join(report.log_tail)

    play(scene())


def test_our_own_error_is_the_reason_as_it_is(tmp_path: Path) -> None:
    async def scene() -> None:
        report = await loaded(make_worker(tmp_path / "absent"))
        assert isinstance(report.error, errors.DownloadFailed)
        assert "does not exist" in report.error.message

    play(scene())


def test_a_second_start_is_the_first_one(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await asyncio.gather(*(worker.start(1, WHERE, 2) for _ in range(5)))
        await loaded(worker)
        assert sum(isinstance(seen, Setup) for seen in Held.seen) == 1

    play(scene())


def test_a_worker_describes_itself_to_a_supervisor_that_finds_it(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        wanted, claim, report = await worker.describe()
        assert isinstance(wanted, Wanted) and wanted.uid == "m"
        assert (claim, report.phase) == (Claim(GIB), "ready")

    play(scene())


# -------------------------------------------------------------------------------------------------- inference


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


# ------------------------------------------------------------------------------------------------ cancelling


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


# --------------------------------------------------------------------------------------------------- draining


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


# ---------------------------------------------------------------------------------------------------- control


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
        assert b"cluster_queue_items" in page(await elsewhere(worker.samples()))
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
        text = page(await worker.samples()).decode()
        labels = f'model="m",replica="{NAME}"'
        assert f"cluster_tokens_total{{{labels}}} 2.0" in text
        assert f'cluster_inference_errors_total{{code="bad_request",{labels}}} 1.0' in text
        assert f"cluster_batch_items_sum{{{labels}}} 2.0" in text

    play(scene())


# ----------------------------------------------------------------------------------------------------- probes


def test_a_probe_runs_the_model(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        Held.entered.clear()
        assert await worker.probe() >= 0
        assert Held.entered.is_set()

    play(scene())


def test_a_model_that_has_just_computed_needs_no_probe(tmp_path: Path) -> None:
    """A probe would wait behind all that a busy worker has in its queue."""

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
        worker._work._family = broken
        (outcome,), _ = await worker.infer([call("a")])
        assert isinstance(outcome, errors.InferenceFailed)
        with pytest.raises(errors.InferenceFailed):
            await worker.probe()

    play(scene())


def test_a_probe_of_a_model_that_raises_fails(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        broken = Broken()
        broken.load(Held.seen[0])
        worker._work._family = broken
        with pytest.raises(errors.InferenceFailed):
            await worker.probe()

    play(scene())


def test_a_probe_of_a_model_that_hangs_fails(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path, settings={"probe_timeout_s": 0.01})
        await loaded(worker)
        # The process that would be ended for it is this one.
        worker._work.batcher.on_hung = lambda batch, seconds: None
        Held.gate.clear()
        with pytest.raises(errors.DeadlineExceeded):
            await worker.probe()

    play(scene())


def test_a_probe_of_a_worker_that_is_not_ready_says_so(tmp_path: Path) -> None:
    """The supervisor takes neither for an answer of the model."""

    async def scene() -> None:
        worker = make_worker(tmp_path)
        with pytest.raises(errors.ModelLoading):
            await worker.probe()
        await loaded(worker)
        await worker.drain(1)
        with pytest.raises(errors.WorkerDraining):
            await worker.probe()

    play(scene())


# --------------------------------------------------------------------------------------------------- streaming


def test_what_streams_warms_up_answers_and_fails_one_by_one(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path, Streamed)
        await loaded(worker)
        assert Streamed.steps == ["hello"]  # the example
        Held.seen.clear()
        outcomes, _ = await worker.infer([call("a", "b"), call("bad"), call("c")])
        assert outcomes[0].outputs == ["a", "b"] and outcomes[2].outputs == ["c"]
        assert isinstance(outcomes[1], errors.InferenceFailed) and "cannot be counted" in outcomes[1].message
        # However short the prompt: there may be pictures beside it.
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
        assert Streamed.steps.count("hello") == 1  # the probe did not wait for a turn of its own
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


# ------------------------------------------------------------------------------------------------------- end


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


# ------------------------------------------------------------------------------------------------ one call alone


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
        assert worker._work.batcher.is_suspicious
        assert await ask(worker, call("x", id="other")) == [["x"]]
        assert not worker._work.batcher.is_suspicious

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


# ------------------------------------------------------------------------------------------- refused beside others


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
    monkeypatch.setattr("cluster.worker.worker.COLLECT_S", 0.01)

    async def scene() -> None:
        worker = make_worker(tmp_path, settings={"queue_tokens": 1})
        await loaded(worker)
        before = await busy(worker)
        await worker.infer([call(str(n), id=f"c{n}") for n in range(3)])
        assert list(worker._taken) == ["c0"]
        await asyncio.sleep(0.05)
        assert not worker._taken
        Held.gate.set()
        await before

    play(scene())
