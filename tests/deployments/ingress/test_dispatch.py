"""What becomes of a request when workers die, hang, or are reserved for another request. The workers are simulated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from cluster import errors
from cluster.calls import Answer, Call
from cluster.routes import ModelRoutes, Route, Snapshot
from cluster.settings import Settings
from cluster.status import ModelState
from cluster.suspicion import fingerprint_of
from deployments.ingress import worker_queue
from deployments.ingress.dispatch import Dispatcher
from deployments.ingress.metrics import IngressMetrics

POISON = ["poison"]


class Remote:
    """A method of an actor."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.remote = method

    def options(self, **options: Any) -> Remote:
        return self


class Worker:
    """Answers with its input, as long as it exists."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[list[str]] = []
        self.cancelled: list[str] = []
        self.reserved_for: str | None = None
        #: Whether it fails every call at once.
        self.is_broken = False
        self.is_dead = asyncio.get_running_loop().create_future()
        #: While this is cleared, it answers nothing, not even a ping.
        self.runs = asyncio.Event()
        self.runs.set()
        self.infer, self.watch = Remote(self._infer), Remote(self._watch)
        self.reserve, self.cancel = Remote(self._reserve), Remote(self._cancel)

    async def _until_it_runs(self) -> None:
        running = asyncio.ensure_future(self.runs.wait())
        await asyncio.wait((running, self.is_dead), return_when=asyncio.FIRST_COMPLETED)
        running.cancel()
        if self.is_dead.done():
            raise errors.WorkerLost(f"{self.name} is gone.", retry_after_s=5.0)

    async def _infer(self, calls: Sequence[Call]) -> tuple[list[Any], int]:
        await self._until_it_runs()
        self.asked.append([call.items[0] for call in calls])
        await asyncio.sleep(0.01)
        if self.is_broken:
            return [errors.InferenceFailed("It computes nothing.") for _ in calls], 0
        if any(call.items == POISON and self._takes(call) for call in calls):
            self.is_dead.set_result(None)
        await self._until_it_runs()
        reserved = errors.WorkerReserved("It tries one call alone.", retry_after_s=1.0)
        outcomes = [Answer(list(call.items), 1) if self._takes(call) else reserved for call in calls]
        if self.reserved_for in [call.id for call in calls]:
            self.reserved_for = None
        return outcomes, 0

    def _takes(self, call: Call) -> bool:
        return self.reserved_for in (None, call.id)

    async def _watch(self, owner: str, seen: int, wait_s: float) -> None:
        await self._until_it_runs()

    async def _reserve(self, owner: str, wait_s: float) -> None:
        await self._until_it_runs()
        while self.reserved_for is not None:
            await asyncio.sleep(0.001)
            await self._until_it_runs()
        self.reserved_for = owner

    async def _cancel(self, owners: Sequence[str], block_s: float) -> bool:
        self.cancelled += owners
        return True


class Supervisor:
    """Starts another worker for each one that has died."""

    def __init__(self, count: int) -> None:
        self.workers = [self._new(number) for number in range(count)]
        self.told: list[tuple[Any, ...]] = []
        self.snapshot = Snapshot(0, {}, {}, ())
        self.changed = asyncio.Event()
        self.publish()

    @staticmethod
    def _new(number: int) -> Worker:
        return Worker(f"worker:m:1:{number}-s{number}")

    def publish(self, **changes: Any) -> None:
        alive = [worker for worker in self.workers if not worker.is_dead.done()]
        routes = ModelRoutes("m", ("infer",), tuple(Route(w.name) for w in alive), ModelState.READY, recovering=True)
        handles = {worker.name: worker for worker in alive}
        version = self.snapshot.version + 1
        self.snapshot = replace(self.snapshot, version=version, models={"m": routes}, handles=handles, **changes)
        self.changed.set()

    def replace_dead(self) -> None:
        for worker in list(self.workers):
            if worker.is_dead.done():
                self.workers.remove(worker)
                self.workers.append(self._new(len(self.workers) + 10 * self.snapshot.version))
        self.publish()

    async def suspect(self, worker: str) -> None:
        self.told.append(("suspect", worker))

    async def poisoned(self, uid: str, fingerprint: str, workers: Sequence[str]) -> None:
        self.told.append(("poisoned", uid, fingerprint, workers))

    async def watch(self, version: int, wait_s: float) -> Snapshot:
        while self.snapshot.version == version:
            self.changed.clear()
            await self.changed.wait()
        return self.snapshot


class Scene:
    def __init__(self, workers: int) -> None:
        self.supervisor = Supervisor(workers)
        metrics = IngressMetrics("i")
        self.dispatcher = Dispatcher(self.supervisor, Settings(_env_file=None, gather_ms=1), metrics)  # type: ignore[call-arg]

    async def ask(self, *items: str, timeout_s: float = 5.0) -> list[str]:
        model = self.dispatcher.table.find("m")
        answer, _ = await self.dispatcher.ask(model, "infer", list(items), {}, "r", timeout_s)
        return list(answer.outputs)

    @property
    def workers(self) -> list[Worker]:
        return self.supervisor.workers


def play(scene: Callable[[Scene], Coroutine[Any, Any, None]], workers: int) -> None:
    async def whole() -> None:
        stage = Scene(workers)
        while not stage.dispatcher.is_ready:
            await asyncio.sleep(0.001)
        await scene(stage)
        stage.dispatcher._watcher.cancel()

    asyncio.run(asyncio.wait_for(whole(), 20))


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


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_queue, "SILENT_S", 0.05)
    monkeypatch.setattr(worker_queue, "PING_S", 0.02)
    monkeypatch.setattr(worker_queue, "PING_PAUSE_S", 0.01)


def test_calls_at_a_worker_that_hangs_are_answered_elsewhere(hasty: None) -> None:
    async def scene(s: Scene) -> None:
        s.workers[0].runs.clear()
        answers = await asyncio.gather(*(s.ask(f"{n}") for n in range(8)))
        assert answers == [[f"{n}"] for n in range(8)]
        assert ("suspect", s.workers[0].name) in s.supervisor.told
        s.workers[0].is_dead.set_result(None)
        await asyncio.sleep(0.05)
        assert [told for told in s.supervisor.told if told[0] == "poisoned"] == []
        assert not s.dispatcher._suspicions or s.dispatcher._suspicions["m"].is_over(0.0)

    play(scene, workers=2)


def test_a_worker_that_fails_everything_while_another_answers_is_told_to_the_supervisor() -> None:
    async def scene(s: Scene) -> None:
        s.workers[0].is_broken = True
        for number in range(100):
            with suppress(errors.InferenceFailed):
                await s.ask(str(number))
            if s.supervisor.told:
                break
        assert s.supervisor.told == [("suspect", s.workers[0].name)]

    play(scene, workers=2)


def test_an_input_that_fails_at_every_worker_makes_no_worker_suspicious() -> None:
    async def scene(s: Scene) -> None:
        for worker in s.workers:
            worker.is_broken = True
        for number in range(50):
            with pytest.raises(errors.InferenceFailed):
                await s.ask(str(number))
        assert s.supervisor.told == []

    play(scene, workers=2)


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
