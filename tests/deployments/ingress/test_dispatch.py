"""What becomes of a request when workers die, hang, or are reserved for another request. The workers are simulated."""

from __future__ import annotations

import asyncio

import pytest

from cluster import errors
from cluster.settings import Settings
from cluster.suspicion import fingerprint_of
from deployments.ingress.dispatch import Dispatcher
from deployments.ingress.metrics import IngressMetrics
from tests.deployments.ingress.dispatch_scene import POISON, Scene, Supervisor, play


def test_poison_ends_two_workers_and_is_told_to_the_supervisor() -> None:
    async def scene(s: Scene) -> None:
        first, second, third = s.workers
        with pytest.raises(errors.PoisonRequest):
            await s.ask(*POISON)
        dead = [worker.name for worker in (first, second, third) if worker.is_dead.done()]
        assert len(dead) == 2
        ((method, uid, fingerprint, ended),) = s.supervisor.told
        assert (method, uid, fingerprint) == ("poisoned", "m", fingerprint_of("infer", POISON, {}))
        assert sorted(ended) == sorted(dead)
        with pytest.raises(errors.PoisonRequest):
            await s.ask(*POISON)
        assert len([worker for worker in s.workers if worker.is_dead.done()]) == 2

    play(scene, workers=3)


@pytest.mark.parametrize("workers", [1, 2])
def test_those_who_ask_beside_poison_are_all_answered(workers: int) -> None:
    async def scene(s: Scene) -> None:
        async def replacing() -> None:
            while True:
                await asyncio.sleep(0.03)
                s.supervisor.replace_dead()

        replacer = asyncio.create_task(replacing())
        others = [asyncio.create_task(s.ask(f"other {n}", timeout_s=10.0)) for n in range(20)]
        (poison, *answers) = await asyncio.gather(s.ask(*POISON, timeout_s=10.0), *others, return_exceptions=True)
        replacer.cancel()
        assert isinstance(poison, errors.PoisonRequest)
        assert answers == [[f"other {n}"] for n in range(20)]
        (told,) = s.supervisor.told
        assert len(told[3]) == 2

    play(scene, workers)


def test_poison_that_another_ingress_has_found_reaches_no_worker() -> None:
    async def scene(s: Scene) -> None:
        s.supervisor.publish(poison=(("m", fingerprint_of("infer", POISON, {})),))
        await asyncio.sleep(0.01)
        with pytest.raises(errors.PoisonRequest):
            await s.ask(*POISON)
        assert await s.ask("other") == ["other"]
        assert s.workers[0].asked == [["other"]]

    play(scene, workers=1)


def test_a_call_waits_for_a_worker_that_is_kept_for_another() -> None:
    async def scene(s: Scene) -> None:
        s.workers[0].reserved_for = "somebody"
        asking = asyncio.create_task(s.ask("a"))
        await asyncio.sleep(0.1)
        assert not asking.done()
        s.workers[0].reserved_for = None
        assert await asking == ["a"]

    play(scene, workers=1)


def test_calls_at_a_worker_that_hangs_are_answered_elsewhere(hasty: None) -> None:
    async def scene(s: Scene) -> None:
        s.workers[0].runs.clear()
        answers = await asyncio.gather(*(s.ask(f"{n}") for n in range(8)))
        assert answers == [[f"{n}"] for n in range(8)]
        assert ("suspect", s.workers[0].name) in s.supervisor.told
        s.workers[0].is_dead.set_result(None)
        await asyncio.sleep(0.05)
        assert [told for told in s.supervisor.told if told[0] == "poisoned"] == []
        suspicions = s.dispatcher._blame._suspicions
        assert not suspicions or suspicions["m"].is_over(0.0)

    play(scene, workers=2)


def test_calls_at_a_worker_that_hears_but_hangs_are_answered_elsewhere_and_the_poison_is_found(hasty: None) -> None:
    async def scene(s: Scene) -> None:
        for worker in s.workers:
            worker.hangs_at = "hang"
        poison = asyncio.create_task(s.ask("hang"))
        await asyncio.sleep(0.02)
        answers = await asyncio.gather(*(s.ask(f"{n}") for n in range(8)))
        assert answers == [[f"{n}"] for n in range(8)]
        with pytest.raises(errors.PoisonRequest):
            await poison
        ((method, _, fingerprint, ended),) = s.supervisor.told
        assert method == "poisoned" and fingerprint == fingerprint_of("infer", ["hang"], {})
        # The first lives and hangs: the supervisor is told of it with the one that ended.
        assert sorted(ended) == sorted(worker.name for worker in s.workers if worker.hangs_with)
        assert len(ended) == 2 and len([worker for worker in s.workers if worker.is_dead.done()]) == 1

    play(scene, workers=3)


def test_a_worker_that_is_overdue_gets_calls_again_when_it_was_only_slow() -> None:
    async def scene(s: Scene) -> None:
        slow = s.workers[0]
        blame = s.dispatcher._blame
        assert blame.see_overdue(slow.name, [])
        for n in range(4):
            await s.ask(str(n))
        assert slow.asked == []
        blame.see_in_time(slow.name)
        for n in range(4):
            await s.ask(str(n))
        assert slow.asked

    play(scene, workers=2)


def test_where_all_workers_are_overdue_they_get_calls_all_the_same() -> None:
    async def scene(s: Scene) -> None:
        blame = s.dispatcher._blame
        assert [blame.see_overdue(worker.name, []) for worker in s.workers] == [True, False]
        assert await s.ask("a") == ["a"]

    play(scene, workers=2)


def test_the_only_worker_that_hears_but_hangs_keeps_its_calls(hasty: None) -> None:
    async def scene(s: Scene) -> None:
        (only,) = s.workers
        only.hangs_at = "hang"
        asking = [asyncio.create_task(s.ask(item)) for item in ("hang", "other")]
        await asyncio.sleep(0.2)
        assert len(only.asked) <= 2 and not any(task.done() for task in asking)
        for task in asking:
            task.cancel()

    play(scene, workers=1)


@pytest.mark.parametrize("any_name", [False, True])
def test_whether_any_name_will_do_is_a_setting(any_name: bool) -> None:
    async def test() -> None:
        settings = Settings(_env_file=None, any_name=any_name)  # type: ignore[call-arg]
        dispatcher = Dispatcher(Supervisor(1), settings, IngressMetrics("i"))
        await dispatcher.first_table(5.0)
        if any_name:
            assert dispatcher.table.find("whatever", "infer").uid == "m"
        else:
            with pytest.raises(errors.ModelNotFound):
                dispatcher.table.find("whatever", "infer")
        dispatcher._watcher.cancel()

    asyncio.run(test())
