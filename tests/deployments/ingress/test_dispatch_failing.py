"""Calls at workers that fail, hang or compute again."""

from __future__ import annotations

import asyncio

import pytest

from cluster import errors
from deployments.ingress import blame
from tests.deployments.ingress.dispatch_scene import Remote, Scene, play


def test_nobody_else_fails_at_a_worker_that_fails_everything(hasty: None) -> None:
    async def scene(s: Scene) -> None:
        broken, sound = s.workers
        broken.breaks_at = sound.breaks_at = "break"
        with pytest.raises(errors.InferenceFailed):
            await s.ask("break")
        answers = await asyncio.gather(*(s.ask(str(n)) for n in range(50)))
        assert answers == [[str(n)] for n in range(50)]
        # A call that broke one worker and was alone there is not tried at the next.
        (failing,) = [worker for worker in s.workers if worker.fails]
        assert s.supervisor.told == [("suspect", failing.name)]

    play(scene, workers=2)


def test_of_those_who_asked_together_the_one_that_breaks_workers_is_found_and_the_others_are_answered() -> None:
    async def scene(s: Scene) -> None:
        for worker in s.workers:
            worker.breaks_at = "break"
        asking = [s.ask("break" if n == 3 else str(n)) for n in range(8)]
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert isinstance(answers.pop(3), errors.PoisonRequest)
        assert answers == [[str(n)] for n in range(8) if n != 3]
        broken = [worker.name for worker in s.workers if worker.fails]
        assert len(broken) == 2
        (told,) = [told for told in s.supervisor.told if told[0] == "poisoned"]
        assert sorted(told[3]) == sorted(broken)

    play(scene, workers=3)


def test_a_call_that_was_at_a_broken_worker_with_those_of_another_ingress_is_tried_elsewhere() -> None:
    async def scene(s: Scene) -> None:
        # Another ingress's call has broken both, and the second of them while it was tried there alone.
        for worker in s.workers[:2]:
            worker.fails, worker.broke_with = True, ["another ingress's"]
        answers = await asyncio.gather(*(s.ask(str(n)) for n in range(8)))
        assert answers == [[str(n)] for n in range(8)]
        assert "poisoned" not in {told[0] for told in s.supervisor.told}

    play(scene, workers=3)


@pytest.mark.parametrize("leaves_the_table", [False, True])
def test_calls_at_a_broken_worker_that_another_ingress_has_told_of_are_asked_elsewhere(leaves_the_table: bool) -> None:
    async def scene(s: Scene) -> None:
        broken, sound = s.workers
        broken.fails = True

        async def is_on_its_way_out() -> None:
            if leaves_the_table:
                s.supervisor.workers = [sound]
                s.supervisor.publish()
                await asyncio.sleep(60)
            raise errors.WorkerLost("It was replaced.")

        broken.failing = Remote(is_on_its_way_out)
        answers = await asyncio.gather(*(s.ask(str(n)) for n in range(8)))
        assert answers == [[str(n)] for n in range(8)] and broken.asked
        # They were beside each other, so none of them is to blame alone.
        assert s.supervisor.told == []

    play(scene, workers=2)


def test_an_input_that_fails_is_its_callers_own_and_asked_once() -> None:
    async def scene(s: Scene) -> None:
        asking = [s.ask("bad" if n % 2 else str(n)) for n in range(20)]
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert [isinstance(answer, errors.InferenceFailed) for answer in answers] == [bool(n % 2) for n in range(20)]
        asked = [item for worker in s.workers for items in worker.asked for item in items]
        assert sorted(asked) == sorted("bad" if n % 2 else str(n) for n in range(20))
        assert s.supervisor.told == [] and not s.dispatcher.table.avoided

    play(scene, workers=2)


def test_a_worker_that_computes_its_example_again_gets_calls_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Scene) -> None:
        worker = s.workers[0]
        worker.breaks_at = "a"
        with pytest.raises(errors.InferenceFailed):
            await s.ask("a")
        held = asyncio.create_task(s.ask("b"))
        await asyncio.sleep(0.05)
        assert s.dispatcher.table.avoided == {worker.name} and not held.done()
        worker.fails = False
        assert await held == ["b"]

    monkeypatch.setattr(blame, "AGAIN_S", 0.01)
    play(scene, workers=1)


def test_the_only_worker_goes_on_where_it_stopped(hasty: None) -> None:
    async def scene(s: Scene) -> None:
        s.workers[0].runs.clear()
        asking = asyncio.create_task(s.ask("a"))
        await asyncio.sleep(0.3)
        assert not asking.done() and not s.dispatcher.table.is_usable(s.dispatcher.table.find("m"))
        s.workers[0].runs.set()
        assert await asking == ["a"]
        assert s.workers[0].asked == [["a"]]
        await asyncio.sleep(0.1)
        assert await s.ask("b") == ["b"]

    play(scene, workers=1)


def test_a_call_whose_worker_hangs_waits_for_the_one_that_is_started_instead(hasty: None) -> None:
    async def scene(s: Scene) -> None:
        s.workers[0].runs.clear()
        asking = asyncio.create_task(s.ask("a"))
        await asyncio.sleep(0.2)
        s.workers[0].is_dead.set_result(None)
        s.supervisor.replace_dead()
        assert await asking == ["a"]

    play(scene, workers=1)
