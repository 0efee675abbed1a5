"""A worker with a model that tests can stop and let go on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from cluster.calls import Answer, Call
from cluster.facts import ModelFacts
from cluster.settings import Settings
from cluster.status import Claim, Report
from cluster.worker.family import Prepared, Progress, Setup, Stepped
from cluster.worker.worker import Worker
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
    """Works on each value alone, in as many steps as a number says, or in one."""

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


class Broken(Echo):
    def run(self, batch: Sequence[Any]) -> Sequence[Any]:
        raise RuntimeError("the kernel is not there")


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
    """Runs on an event loop and thread of its own, as control calls do."""
    return asyncio.to_thread(asyncio.run, work)


def call(*items: Any, id: str = "me", seconds: float = 60, **params: Any) -> Call:
    return Call(id, list(items), params, seconds, "infer")


async def ask(worker: Worker, *calls: Call) -> list[Any]:
    """The outputs or the error of each call."""
    outcomes, _ = await worker.infer(calls)
    return [outcome.outputs if isinstance(outcome, Answer) else outcome for outcome in outcomes]


async def busy(worker: Worker) -> asyncio.Task[list[Any]]:
    """A request that is being computed until the gate opens."""
    Held.gate.clear()
    Held.entered.clear()
    task = asyncio.create_task(ask(worker, call("busy", id="busy")))
    assert await asyncio.to_thread(Held.entered.wait, PATIENCE_S)
    return task
