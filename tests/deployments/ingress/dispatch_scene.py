"""A dispatcher with workers that are played: what each does with a call, a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from cluster import errors
from cluster.calls import Answer, Call
from cluster.routes import ModelRoutes, Route, Snapshot
from cluster.settings import Settings
from cluster.status import ModelState
from cluster.tally import CanaryTally
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

    async def tallied(self, ingress: str, tallies: Sequence[CanaryTally]) -> None:
        self.told.append(("tallied", ingress, tallies))

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
