"""What becomes of a request when workers die, hang, or are reserved for another request. The workers are simulated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import pytest

from cluster import errors
from cluster.calls import Answer, Call
from cluster.routes import Amendment, ModelRoutes, Route, Snapshot
from cluster.settings import Settings
from cluster.status import ModelState
from cluster.suspicion import fingerprint_of
from deployments.ingress import blame, dispatch, table_writer, worker_queue
from deployments.ingress.dispatch import Dispatcher
from deployments.ingress.metrics import IngressMetrics
from deployments.ingress.table_writer import TableWriter

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
        #: It fails every call at once, its example too.
        self.fails = False
        #: A call with this item breaks it.
        self.breaks_at = ""
        #: The item with which it hangs, though it hears.
        self.hangs_at = ""
        self.hangs_with: list[str] = []
        self.is_dead = asyncio.get_running_loop().create_future()
        #: While this is cleared, it answers nothing, not even a ping.
        self.runs = asyncio.Event()
        self.runs.set()
        self.infer, self.overdue = Remote(self._infer), Remote(self._overdue)
        self.failing = Remote(self._failing)
        #: The calls that it had when it broke.
        self.broke_with: list[str] = []
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
        if not self.fails and any(self.breaks_at in call.items and self._takes(call) for call in calls):
            self.fails, self.broke_with = True, [call.id for call in calls]
        if self.fails:
            return [errors.InferenceFailed("It computes nothing.") for _ in calls], 0
        if any(call.items == ["bad"] for call in calls):
            bad = errors.InferenceFailed("ValueError: bad")
            return [bad if call.items == ["bad"] else Answer(list(call.items), 1) for call in calls], 0
        if any(self.hangs_at in call.items and self._takes(call) for call in calls):
            self.hangs_with += [call.id for call in calls]
            if self.reserved_for is not None:
                self.is_dead.set_result(None)  # as a worker that hangs with a suspect
            await self.is_dead
        if self.hangs_with:
            await self.is_dead
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

    async def _overdue(self) -> list[str]:
        await self._until_it_runs()
        return self.hangs_with

    async def _failing(self) -> list[str] | None:
        await self._until_it_runs()
        return self.broke_with if self.fails else None

    async def _reserve(self, owner: str, wait_s: float) -> None:
        await self._until_it_runs()
        while self.reserved_for is not None:
            await asyncio.sleep(0.001)
            await self._until_it_runs()
        if self.fails:
            raise errors.WorkerDraining("It fails its own example.")
        self.reserved_for = owner

    async def _cancel(self, owners: Sequence[str], block_s: float) -> bool:
        self.cancelled += owners
        return True


class Supervisor:
    """Starts another worker for each one that has died."""

    def __init__(self, count: int, kind: type[Worker] = Worker) -> None:
        self._kind = kind
        self.workers = [self._new(number) for number in range(count)]
        self.told: list[tuple[Any, ...]] = []
        self.snapshot = Snapshot(0, {}, {}, ())
        self.changed = asyncio.Event()
        self.publish()

    def _new(self, number: int) -> Worker:
        return self._kind(f"worker:m:1:{number}-s{number}")

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

    async def changes(self, version: int, wait_s: float) -> Snapshot:
        while self.snapshot.version == version:
            self.changed.clear()
            await self.changed.wait()
        return self.snapshot


class Scene:
    def __init__(self, workers: int, kind: type[Worker] = Worker) -> None:
        self.supervisor = Supervisor(workers, kind)
        metrics = IngressMetrics("i")
        self.dispatcher = Dispatcher(self.supervisor, Settings(_env_file=None, gather_ms=1), metrics)  # type: ignore[call-arg]

    async def ask(self, *items: str, timeout_s: float = 5.0) -> list[str]:
        model = self.dispatcher.table.find("m")
        answer, _ = await self.dispatcher.ask(model, "infer", list(items), {}, "r", timeout_s)
        return list(answer.outputs)

    @property
    def workers(self) -> list[Worker]:
        return self.supervisor.workers


def play(scene: Callable[[Scene], Coroutine[Any, Any, None]], workers: int, kind: type[Worker] = Worker) -> None:
    async def whole() -> None:
        stage = Scene(workers, kind)
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


# ------------------------------------------------------------------------------------- workers that fail


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


# ------------------------------------------------------------------------------------- a new ingress


class Written:
    """Instead of the file with the last table."""

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        self.snapshot = snapshot
        self.writes = 0

    def write(self, snapshot: Snapshot, changes: Sequence[Amendment]) -> None:
        assert changes[-1].version == snapshot.version
        self.snapshot = snapshot
        self.writes += 1

    def read(self) -> Snapshot | None:
        return self.snapshot


class Mute(Supervisor):
    """Says nothing until it is let."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.speaks = asyncio.Event()

    async def changes(self, version: int, wait_s: float) -> Snapshot:
        await self.speaks.wait()
        return await super().changes(version, wait_s)


def test_an_ingress_that_starts_while_the_supervisor_says_nothing_serves_from_the_last_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(s: Scene) -> None:
        s.supervisor = supervisor = Mute(1)
        settings = Settings(_env_file=None)  # type: ignore[call-arg]
        s.dispatcher._watcher.cancel()
        s.dispatcher = Dispatcher(supervisor, settings, IngressMetrics("j"), Written(supervisor.snapshot))
        await s.dispatcher.first_table(5.0)
        assert await s.ask("a") == ["a"]
        # What the supervisor says later is newer.
        supervisor.speaks.set()
        supervisor.workers[0].is_dead.set_result(None)
        supervisor.replace_dead()
        assert await s.ask("b") == ["b"]

    monkeypatch.setattr(dispatch, "OWN_TABLE_S", 0.02)
    play(scene, workers=1)


def test_an_ingress_without_a_last_table_waits_no_longer_than_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Scene) -> None:
        dispatcher = Dispatcher(Mute(1), Settings(_env_file=None), IngressMetrics("j"), Written())  # type: ignore[call-arg]
        async with asyncio.timeout(5):
            await dispatcher.first_table(0.1)
        assert not dispatcher.is_ready
        dispatcher._watcher.cancel()

    monkeypatch.setattr(dispatch, "OWN_TABLE_S", 0.02)
    play(scene, workers=1)


def test_a_worker_that_was_missing_in_the_file_is_told_by_the_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it has nothing newer to tell than what is in the file."""

    async def scene(s: Scene) -> None:
        s.supervisor = supervisor = Mute(2)
        routes = supervisor.snapshot.models["m"]
        lacking = replace(
            supervisor.snapshot,
            models={"m": replace(routes, workers=routes.workers[:1])},
            handles={routes.workers[0].worker: supervisor.snapshot.handles[routes.workers[0].worker]},
        )
        s.dispatcher._watcher.cancel()
        settings = Settings(_env_file=None)  # type: ignore[call-arg]
        s.dispatcher = Dispatcher(supervisor, settings, IngressMetrics("j"), Written(lacking))
        await s.dispatcher.first_table(5.0)
        assert len(s.dispatcher.clients()) == 1
        supervisor.speaks.set()
        async with asyncio.timeout(5):
            while len(s.dispatcher.clients()) < 2:
                await asyncio.sleep(0.01)
        assert len(s.dispatcher.table.models["m"].workers) == 2

    monkeypatch.setattr(dispatch, "OWN_TABLE_S", 0.02)
    play(scene, workers=1)


def test_many_changes_of_the_table_are_written_down_together(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Scene) -> None:
        written = Written()
        s.dispatcher._writer = TableWriter(written)
        for _ in range(20):
            s.supervisor.publish()
            await asyncio.sleep(0.005)
        async with asyncio.timeout(5):
            while written.snapshot != s.supervisor.snapshot:
                await asyncio.sleep(0.01)
        assert written.writes < 10

    monkeypatch.setattr(table_writer, "WRITE_S", 0.05)
    play(scene, workers=1)
