"""An ingress that starts, with and without the last table of the one before."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from cluster.routes import Amendment, Snapshot
from cluster.settings import Settings
from deployments.ingress import dispatch, table_writer
from deployments.ingress.dispatch import Dispatcher
from deployments.ingress.metrics import IngressMetrics
from deployments.ingress.table_writer import TableWriter
from tests.deployments.ingress.dispatch_scene import Scene, Supervisor, play


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
