"""Answers in pieces: where they are asked for, and what becomes of them when workers die. The workers are simulated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest

from cluster import errors
from cluster.calls import Answer, Call
from tests.deployments.ingress.dispatch_scene import POISON, Remote, Scene, Worker, play


class Speaker(Worker):
    """Says its name, then the item letter by letter. It dies after `dies_after` of them, and says no more than `says`
    until somebody lets it."""

    dies_after = 1000
    refuses = False

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.talk_in_frames = Remote(self._talk)
        self.begun: list[str] = []

    async def _talk(self, call: Call) -> AsyncIterator[Awaitable[list[object]]]:
        yield self._first(call)
        for number, letter in enumerate(call.items[0]):
            yield self._letter(number, letter)
        yield self._said([Answer(None, len(call.items[0]))])

    async def _first(self, call: Call) -> list[object]:
        await self._until_it_runs()
        self.begun.append(call.items[0])
        if self.refuses:
            raise errors.Overloaded("The queue is full.")
        if call.items == POISON and self._takes(call):
            self.is_dead.set_result(None)
            await self._until_it_runs()
        return [self.name]

    async def _letter(self, number: int, letter: str) -> list[object]:
        if number == self.dies_after:
            self.is_dead.set_result(None)
        await self._until_it_runs()
        return [letter]

    async def _said(self, pieces: list[object]) -> list[object]:
        return pieces


async def said(s: Scene, item: str, pieces: list[object] | None = None) -> list[object]:
    pieces = [] if pieces is None else pieces
    talk = s.dispatcher.talk(s.dispatcher.table.find("m"), "infer", item, {}, "r", 5.0)
    async with aclosing(talk):
        async for some in talk:
            pieces += some
    return pieces


def speakers(s: Scene) -> list[Speaker]:
    return [worker for worker in s.workers if isinstance(worker, Speaker)]


def scene(workers: int) -> Callable[[Callable[[Scene], Any]], None]:
    return lambda test: play(test, workers, Speaker)


def test_pieces_come_one_after_the_other_and_the_answer_last() -> None:
    @scene(1)
    async def test(s: Scene) -> None:
        name, *letters, answer = await said(s, "abc")
        assert (name, letters, answer) == (s.workers[0].name, ["a", "b", "c"], Answer(None, 3))
        assert not s.dispatcher.table.in_flight


def test_an_answer_counts_as_work_of_its_worker_until_it_ends() -> None:
    @scene(2)
    async def test(s: Scene) -> None:
        model = s.dispatcher.table.find("m")
        first = s.dispatcher.talk(model, "infer", "abc", {}, "r", 5.0)
        (one,) = await anext(first)
        other = s.dispatcher.talk(model, "infer", "abc", {}, "r", 5.0)
        assert s.dispatcher.table.in_flight == {one: 1}
        assert await anext(other) != [one]
        await first.aclose()
        await other.aclose()
        assert not s.dispatcher.table.in_flight


def test_whoever_leaves_ends_the_work() -> None:
    @scene(1)
    async def test(s: Scene) -> None:
        talk = s.dispatcher.talk(s.dispatcher.table.find("m"), "infer", "abc", {}, "r", 5.0)
        await anext(talk)
        await talk.aclose()
        assert [id.partition("#")[0] for id in s.workers[0].cancelled] == ["r"]


def test_whoever_leaves_before_the_first_piece_ends_the_work_too() -> None:
    @scene(1)
    async def test(s: Scene) -> None:
        s.workers[0].runs.clear()
        asking = asyncio.create_task(said(s, "abc"))
        await asyncio.sleep(0.02)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await asyncio.sleep(0.01)
        assert s.workers[0].cancelled
        s.workers[0].runs.set()
        await asyncio.sleep(0.02)
        assert not s.dispatcher.table.in_flight


@pytest.mark.parametrize("fault", ["dies", "refuses"])
def test_an_answer_is_asked_elsewhere_before_its_first_piece(fault: str) -> None:
    @scene(2)
    async def test(s: Scene) -> None:
        for worker in speakers(s):
            if fault == "dies":
                worker.runs.clear()
            else:
                worker.refuses = True
        asking = asyncio.create_task(said(s, "abc"))
        await asyncio.sleep(0.02)
        if fault == "dies":
            (busy,) = s.dispatcher.table.in_flight
            (dying,) = [worker for worker in speakers(s) if worker.name == busy]
            for worker in speakers(s):
                if worker is not dying:
                    worker.runs.set()
            dying.is_dead.set_result(None)
            assert (await asking)[0] != dying.name
        else:
            with pytest.raises(errors.Overloaded):
                await asking
            assert [worker.begun for worker in speakers(s)] == [["abc"], ["abc"]]


def test_after_the_first_piece_the_death_of_its_worker_ends_it() -> None:
    @scene(2)
    async def test(s: Scene) -> None:
        for worker in speakers(s):
            worker.dies_after = 2
        pieces: list[object] = []
        with pytest.raises(errors.WorkerLost):
            await said(s, "abcdef", pieces)
        assert pieces[1:] == ["a", "b"]
        assert sorted(len(worker.begun) for worker in speakers(s)) == [0, 1]


def test_what_ends_its_workers_is_refused() -> None:
    """It takes three of them: while an answer takes its time, its worker may die of something else."""

    @scene(4)
    async def test(s: Scene) -> None:
        with pytest.raises(errors.PoisonRequest):
            await said(s, POISON[0])
        assert len([worker for worker in s.workers if worker.is_dead.done()]) == 3
