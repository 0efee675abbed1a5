from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from cluster import errors
from cluster.calls import BATCH_PART, Answer, Call
from deployments.ingress import dispatch, worker_queue
from deployments.ingress.worker_queue import FULL_S, LONG, GivenUp, Sent, WorkerQueue


class Worker:
    """A worker that refuses batches that are too long, and counts its calls."""

    def __init__(self, takes: int) -> None:
        self.takes = takes
        self.asked: list[int] = []

    async def infer(self, calls: Sequence[Call], timeout_s: float) -> tuple[list[Any], int]:
        sizes = [len(call.items[0]) for call in calls]
        self.asked += sizes
        full = errors.Overloaded("The queue is full.", retry_after_s=3.0)
        return [Answer([size], size) if size <= self.takes else full for size in sizes], len(calls)


def play(takes: int, scene: Callable[[WorkerQueue, Worker], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        worker = Worker(takes)
        await scene(WorkerQueue(worker, 0.001, lambda requests: None), worker)

    asyncio.run(whole())


async def send(queue: WorkerQueue, size: int) -> Any:
    """Sends a request as `Dispatcher` does."""
    queue.refuse(size)
    return await queue.send(Call(f"r{size}", ["x" * size], {}, 5.0, "embed"))


def test_a_worker_that_is_full_is_not_asked_again_at_once() -> None:
    async def scene(queue: WorkerQueue, worker: Worker) -> None:
        for _ in range(5):
            with pytest.raises(errors.Overloaded) as caught:
                await send(queue, 100)
            assert caught.value.retry_after_s == 3.0
        assert worker.asked == [100]

    play(10, scene)


def test_what_is_smaller_than_what_was_refused_is_still_sent() -> None:
    async def scene(queue: WorkerQueue, worker: Worker) -> None:
        with pytest.raises(errors.Overloaded):
            await send(queue, 100)
        assert (await send(queue, 10)).outputs == [10]
        assert worker.asked == [100, 10]

    play(10, scene)


def test_a_batch_travels_by_itself_and_that_it_is_refused_concerns_nobody_else() -> None:
    async def scene(queue: WorkerQueue, worker: Worker) -> None:
        batch = [Call(f"b{BATCH_PART}#{number}", ["x" * 50], {}, 5.0, "embed") for number in range(3)]
        sending = [asyncio.ensure_future(queue.send(call)) for call in batch]
        talk = asyncio.ensure_future(queue.send(Call("r#1", ["x"], {}, 5.0, "embed")))
        assert (await talk).outputs == [1]
        for refused in sending:
            with pytest.raises(errors.Overloaded):
                await refused
        assert worker.asked == [1, 50, 50, 50]
        queue.refuse(100)

    play(10, scene)


def test_a_worker_is_asked_again_soon() -> None:
    async def scene(queue: WorkerQueue, worker: Worker) -> None:
        with pytest.raises(errors.Overloaded):
            await send(queue, 100)
        worker.takes = 1000
        await asyncio.sleep(FULL_S * 1.1)
        assert (await send(queue, 100)).outputs == [100]

    play(10, scene)


def test_being_refused_here_does_not_make_the_worker_full_for_longer() -> None:
    async def scene(queue: WorkerQueue, worker: Worker) -> None:
        with pytest.raises(errors.Overloaded):
            await send(queue, 100)
        worker.takes = 1000
        for _ in range(4):
            await asyncio.sleep(FULL_S * 0.3)
            try:
                await send(queue, 100)
            except errors.Overloaded:
                continue
        # On a slow machine the pauses are longer, so there are more calls.
        assert len(worker.asked) >= 2

    play(10, scene)


def test_a_short_question_is_not_answered_with_the_long_request_it_came_with() -> None:
    async def scene() -> None:
        long_is_done = asyncio.Event()

        class Slow(Worker):
            async def infer(self, calls: Sequence[Call], timeout_s: float) -> tuple[list[Any], int]:
                if any(len(call.items[0]) > LONG for call in calls):
                    await long_is_done.wait()
                return await super().infer(calls, timeout_s)

        queue = WorkerQueue(Slow(10**6), 0.001, lambda requests: None)
        long = asyncio.ensure_future(send(queue, LONG + 1))
        short = [asyncio.ensure_future(send(queue, size)) for size in (10, 11)]
        async with asyncio.timeout(5):
            assert [answer.outputs for answer in await asyncio.gather(*short)] == [[10], [11]]
        assert not long.done()
        long_is_done.set()
        assert (await long).outputs == [LONG + 1]

    asyncio.run(scene())


def test_who_is_refused_is_told_to_come_back_later_than_the_others() -> None:
    refusal = dispatch.later(errors.Overloaded("The queue is full.", "input", 3.0), 1.5)
    assert (refusal.message, refusal.retry_after_s, refusal.param) == ("The queue is full.", 4.5, "input")
    assert dispatch.later(errors.Overloaded("The queue is full."), 1.5).retry_after_s is None


# ------------------------------------------------------------------------------------- what dies, and what hangs


class Breakable(Worker):
    """A worker whose calls stay open until the test ends them."""

    def __init__(self) -> None:
        super().__init__(10**6)
        self.ends: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.hears = True
        #: The calls that it computes for longer than is usual.
        self.late: list[str] = []
        self.reserved: list[str] = []
        self.cancelled: list[str] = []

    async def infer(self, calls: Sequence[Call], timeout_s: float) -> tuple[list[Any], int]:
        await asyncio.shield(self.ends)
        return await super().infer(calls, timeout_s)

    async def reserve(self, owner: str, wait_s: float) -> None:
        self.reserved.append(owner)

    async def cancel(self, owners: Sequence[str]) -> bool:
        self.cancelled += owners
        return True

    async def overdue(self, timeout_s: float) -> list[str]:
        if not self.hears:
            raise errors.Unavailable("It does not answer.", retry_after_s=5.0)
        return self.late

    def die(self) -> None:
        self.ends.set_exception(errors.WorkerLost("The process is gone.", retry_after_s=5.0))


class Broken:
    """A queue in front of such a worker, and what the queue reported."""

    def __init__(self) -> None:
        self.worker = Breakable()
        self.deaths: list[list[tuple[str, bool]]] = []
        self.silences: list[bool] = []
        #: The ids of calls that were told to be overdue, and None when there were no more.
        self.overdue: list[list[str] | None] = []
        self.may_give_up = True
        self.queue = WorkerQueue(
            self.worker,
            0.001,
            lambda n: None,
            self._see_death,
            self.silences.append,
            self._see_overdue,
            lambda: self.overdue.append(None),
        )

    def _see_overdue(self, sent: Sequence[Sent]) -> bool:
        self.overdue.append([each.call.id for each in sent])
        return self.may_give_up

    def _see_death(self, sent: Sequence[Sent]) -> None:
        self.deaths.append(sorted((each.call.id, each.is_alone) for each in sent))

    def send(self, id: str) -> asyncio.Future[Answer]:
        return asyncio.ensure_future(self.queue.send(Call(id, ["x"], {}, 5.0, "embed")))


def play_broken(scene: Callable[[Broken], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        await scene(Broken())

    asyncio.run(asyncio.wait_for(whole(), 10))


async def turn() -> None:
    await asyncio.sleep(0.01)


def test_a_death_is_told_once_with_all_that_the_worker_had() -> None:
    async def scene(broken: Broken) -> None:
        sending = [broken.send("a"), broken.send("b")]
        await turn()
        sending.append(broken.send("c"))
        await turn()
        broken.worker.die()
        outcomes = await asyncio.gather(*sending, return_exceptions=True)
        assert all(isinstance(outcome, errors.WorkerLost) for outcome in outcomes)
        assert broken.deaths == [[("a", False), ("b", False), ("c", False)]]
        with pytest.raises(errors.WorkerLost):
            await broken.send("later")
        assert len(broken.deaths) == 1

    play_broken(scene)


def test_whoever_left_before_his_call_ended_the_worker_is_told_as_well() -> None:
    async def scene(broken: Broken) -> None:
        leaving, other = broken.send("left"), broken.send("other")
        await turn()
        leaving.cancel()
        await turn()
        broken.worker.die()
        await asyncio.gather(leaving, other, return_exceptions=True)
        assert broken.deaths == [[("left", False), ("other", False)]]

    play_broken(scene)


def test_a_suspect_is_sent_to_a_worker_that_was_emptied_for_it() -> None:
    async def scene(broken: Broken) -> None:
        sending = asyncio.ensure_future(broken.queue.send_tried(Call("s", ["x"], {}, 5.0, "embed")))
        await turn()
        assert broken.worker.reserved == ["s"]
        broken.worker.die()
        await asyncio.gather(sending, return_exceptions=True)
        assert broken.deaths == [[("s", True)]]

    play_broken(scene)


def test_a_suspect_that_only_waits_for_a_worker_that_dies_is_not_blamed() -> None:
    async def scene(broken: Broken) -> None:
        is_empty = asyncio.get_running_loop().create_future()

        async def reserve(owner: str, wait_s: float) -> None:
            await is_empty

        broken.worker.reserve = reserve  # type: ignore[method-assign]
        suspect = asyncio.ensure_future(broken.queue.send_tried(Call("s", ["x"], {}, 5.0, "embed")))
        other = broken.send("other")
        await turn()
        is_empty.set_exception(errors.WorkerLost("The process is gone.", retry_after_s=5.0))
        broken.worker.die()
        await asyncio.gather(suspect, other, return_exceptions=True)
        assert broken.deaths == [[("other", False)]]

    play_broken(scene)


def test_a_reservation_is_given_back_when_the_suspect_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(broken: Broken) -> None:
        is_empty = asyncio.get_running_loop().create_future()

        async def reserve(owner: str, wait_s: float) -> None:
            await is_empty

        broken.worker.reserve = reserve  # type: ignore[method-assign]
        suspect = asyncio.ensure_future(broken.queue.send_tried(Call("s", ["x"], {}, 5.0, "embed")))
        await turn()
        suspect.cancel()
        is_empty.set_result(None)
        await turn()
        assert "s" in broken.worker.cancelled and broken.worker.asked == []

    play_broken(scene)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_queue, "SILENT_S", 0.03)
    monkeypatch.setattr(worker_queue, "PING_PAUSE_S", 0.01)


def test_a_worker_that_computes_for_long_and_hears_is_waited_for(hasty: None) -> None:
    async def scene(broken: Broken) -> None:
        sending = broken.send("a")
        await asyncio.sleep(0.15)
        assert broken.silences == [] and not sending.done()
        broken.worker.ends.set_result(None)
        assert (await sending).outputs == [1]

    play_broken(scene)


def test_a_silent_worker_is_given_up_and_its_answer_still_taken(hasty: None) -> None:
    async def scene(broken: Broken) -> None:
        broken.worker.hears = False
        with pytest.raises(GivenUp) as caught:
            await broken.send("a")
        assert broken.silences == [True]
        broken.worker.hears = True
        broken.worker.ends.set_result(None)
        assert (await caught.value.sent.answer).outputs == [1]
        await asyncio.sleep(0.05)
        assert broken.silences == [True, False]

    play_broken(scene)


def test_what_was_answered_elsewhere_is_no_suspect_when_the_silent_worker_dies(hasty: None) -> None:
    async def scene(broken: Broken) -> None:
        broken.worker.hears = False
        sending = [broken.send("answered"), broken.send("open")]
        outcomes = await asyncio.gather(*sending, return_exceptions=True)
        outcomes[0].sent.is_cleared = True
        broken.worker.die()
        await turn()
        assert broken.deaths == [[("open", False)]]

    play_broken(scene)


def test_a_worker_without_work_is_not_asked(hasty: None) -> None:
    async def scene(broken: Broken) -> None:
        broken.worker.ends.set_result(None)
        await broken.send("a")
        broken.worker.hears = False
        await asyncio.sleep(0.1)
        assert broken.silences == []

    play_broken(scene)


def test_all_calls_of_a_worker_that_takes_too_long_for_one_are_given_up(hasty: None) -> None:
    async def scene(broken: Broken) -> None:
        broken.worker.late = ["a", "of another ingress"]
        outcomes = await asyncio.gather(broken.send("a"), broken.send("waits behind it"), return_exceptions=True)
        assert all(isinstance(outcome, GivenUp) for outcome in outcomes)
        assert broken.overdue[0] == ["a"] and broken.silences == []
        broken.worker.late = []
        await asyncio.sleep(0.05)
        assert broken.overdue[-1] is None
        broken.worker.ends.set_result(None)
        await turn()
        assert [outcome.sent.answer.done() for outcome in outcomes] == [True, True]

    play_broken(scene)


def test_where_no_other_worker_is_left_nothing_is_given_up(hasty: None) -> None:
    async def scene(broken: Broken) -> None:
        broken.worker.late, broken.may_give_up = ["a"], False
        sending = broken.send("a")
        await asyncio.sleep(0.1)
        assert len(broken.overdue) > 1 and not sending.done()
        broken.may_give_up = True
        with pytest.raises(GivenUp):
            await sending

    play_broken(scene)
