from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from cluster import errors
from cluster.control.placement import Placement
from cluster.control.platform import Handle
from cluster.control.sqlite_store import SqliteStore
from cluster.launch import Wanted
from cluster.settings import Settings
from cluster.status import Claim, Report, WorkerName
from cluster.worker.worker import Worker
from tests.cluster.control.scenes import (
    PATIENCE_S,
    M,
    Scene,
    World,
)
from tests.make import make_node, make_wanted

T = TypeVar("T")


class Hosted(Handle):
    """A real worker, without a process around it."""

    def __init__(self, worker: Worker) -> None:
        self.remote = self.worker = worker
        self.alive = True

    async def describe(self, *, timeout_s: float) -> tuple[Wanted, Claim, Report]:
        return await self._answer(self.worker.describe(), timeout_s)

    async def start(self, epoch: int, where: tuple[str, str], threads: int, *, timeout_s: float) -> None:
        await self._answer(self.worker.start(epoch, where, threads), timeout_s)

    async def report(self, epoch: int, version: int, wait_s: float, *, timeout_s: float) -> tuple[int, Report]:
        return await self._answer(self.worker.report(epoch, version, wait_s), timeout_s)

    async def doze(self, epoch: int, *, timeout_s: float) -> None:
        await self._answer(self.worker.doze(epoch), timeout_s)

    async def set_threads(self, epoch: int, threads: int, *, timeout_s: float) -> None:
        await self._answer(self.worker.set_threads(epoch, threads), timeout_s)

    async def drain(self, epoch: int, *, timeout_s: float) -> None:
        await self._answer(self.worker.drain(epoch), timeout_s)

    async def logs(self, lines: int, *, timeout_s: float) -> list[str]:
        return await self._answer(self.worker.logs(lines), timeout_s)

    async def _answer(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        if not self.alive:
            work.close()
            raise errors.WorkerLost("The process is gone.", retry_after_s=5.0)
        return await asyncio.wait_for(work, timeout_s)

    async def probe(self, timeout_s: float) -> float:
        return await self.worker.probe()

    def kill(self) -> None:
        self.alive = False


class Host(World):
    """Holds real workers, on the event loop of the supervisor."""

    def __init__(self, folder: Path) -> None:
        super().__init__(make_node())
        self.folder = folder
        self.hosted: dict[WorkerName, Hosted] = {}

    async def start(self, name: WorkerName, wanted: Wanted, placement: Placement) -> Hosted:  # type: ignore[override]
        wanted = wanted.model_copy(update={"source": wanted.source.model_copy(update={"id": str(self.folder)})})
        settings = Settings(home=self.folder)
        found = self.hosted[name] = Hosted(Worker(str(name), wanted, placement.claim, settings))  # type: ignore[abstract]
        return found

    async def find(self) -> Mapping[WorkerName, Hosted]:  # type: ignore[override]
        return {name: hosted for name, hosted in self.hosted.items() if hosted.alive}


@pytest.fixture
def root_logger() -> Iterator[None]:
    """Restores the root logger, to which every worker adds a handler."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)


def test_real_workers_are_launched_adopted_and_drained(tmp_path: Path, root_logger: None) -> None:
    async def whole() -> None:
        host = Host(tmp_path)
        async with asyncio.timeout(PATIENCE_S * 4), Scene(host, SqliteStore()) as s:
            await s.ready(make_wanted(replica=2, claim_gib=0.01))
            status = await s.state(M.READY)
            assert all(worker.claim_bytes > 2**25 for worker in status.workers)  # measured
            assert status.about["pid"]
            workers = [hosted.worker for hosted in host.hosted.values()]
            await s.replace_supervisor()
            await s.state(M.READY)
            assert [hosted.worker for hosted in host.hosted.values()] == workers
            with pytest.raises(errors.StaleEpoch):
                await workers[0].drain(1)
            assert await s.supervisor.logs("m", 100)
            await s.supervisor.terminate("m")
            await s.until(lambda: not s.supervisor._fleet.workers)
            assert [(await worker.describe())[2].phase for worker in workers] == ["drained"] * 2
            assert not any(hosted.alive for hosted in host.hosted.values())

    asyncio.run(whole())


def test_a_real_worker_that_cannot_load_is_told_with_its_log(tmp_path: Path, root_logger: None) -> None:
    async def whole() -> None:
        async with asyncio.timeout(PATIENCE_S * 4), Scene(Host(tmp_path), SqliteStore()) as s:
            await s.launch(make_wanted(options={"load_error": "no such layer"}))
            status = await s.state(M.FAILED)
            assert status.reason == "m could not be loaded: ValueError: no such layer"
            assert "ValueError: no such layer" in status.log_tail

    asyncio.run(whole())
