from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from cluster import errors
from cluster.control.sqlite_store import SqliteStore
from cluster.control.store import Kind
from cluster.control.supervisor import Supervisor
from cluster.metrics import page
from tests.cluster.control.scenes import (
    PATIENCE_S,
    M,
    Scene,
    play,
)
from tests.full_disk import unwritable
from tests.make import make_wanted


def test_on_a_full_disk_what_dies_is_replaced() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=2))
        with unwritable(s.store):
            dead = s.world.alive()[0]
            dead.kill()
            await s.until(lambda: not s.supervisor._fleet.workers.get(str(dead.name)))
            s.world.clock_ahead += 1.1
            await s.state(M.READY)
            assert len(s.world.alive()) == 2

    play(scene)


def test_on_a_full_disk_a_new_supervisor_comes_up_and_is_obeyed() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        process, old_epoch = s.world.the(), s.world.the().epoch
        with unwritable(s.store):
            s.world.wall_clock_ahead = 5
            version = s.supervisor._publisher.snapshots.version
            await s.replace_supervisor()
            await s.state(M.READY)
            await s.until(lambda: process.epoch > old_epoch)
            assert s.supervisor._publisher.snapshots.version > version
            process.kill()
            await s.until(lambda: not s.supervisor._fleet.workers)
            s.world.clock_ahead += 1.1
            await s.state(M.READY)
        epoch = s.world.the().epoch
        await s.until(lambda: s.store.number("epoch") == epoch)
        s.world.wall_clock_ahead = -3600
        await s.replace_supervisor()
        await s.until(lambda: s.world.the().epoch > epoch)

    play(scene)


@pytest.mark.parametrize(
    "change",
    [
        lambda supervisor: supervisor.launch(make_wanted("other"), True),
        lambda supervisor: supervisor.scale("m", 2),
        lambda supervisor: supervisor.terminate("m"),
        lambda supervisor: supervisor.apply([make_wanted(options={"steps": 2})], False, False),
        lambda supervisor: supervisor.create_key("k", ["infer"], None),
    ],
    ids=["launch", "scale", "terminate", "apply", "create_key"],
)
def test_what_cannot_be_written_down_is_refused_and_not_done(change: Callable[[Supervisor], Any]) -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        with unwritable(s.store):
            with pytest.raises(errors.OutOfSpace):
                await change(s.supervisor)
            await s.ticks()
            assert [
                (status.uid, status.generation, status.replica) for status in await s.supervisor.all_statuses()
            ] == [("m", 1, 1)]
            assert len(s.world.started) == 1 and s.world.the().alive
            assert await s.supervisor.all_keys() == []
        await change(s.supervisor)

    play(scene)


class SlowStore(SqliteStore):
    """A store that writes only when the test allows it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def put(self, kind: Kind, key: str, value: Any) -> None:
        if kind == "wish":
            self.gate.wait(PATIENCE_S)
        super().put(kind, key, value)


def test_a_slow_disk_holds_up_who_changes_something_and_nobody_else() -> None:
    store = SlowStore()

    async def scene(s: Scene) -> None:
        launches = [asyncio.ensure_future(s.launch(make_wanted(uid))) for uid in ("a", "a", "b")]
        await s.ticks()
        assert (await s.supervisor.watch(-1, 0)).models == {} and await s.supervisor.all_statuses() == []
        assert not s.world.started and not any(launch.done() for launch in launches)
        store.gate.set()
        assert [(await launch).uid for launch in launches] == ["a", "a", "b"]
        await s.state(M.READY, "a")
        assert len(s.world.alive("a")) == 1

    play(scene, store=store)


def test_a_change_whose_caller_goes_away_is_made_whole() -> None:
    store = SlowStore()

    async def scene(s: Scene) -> None:
        launch = asyncio.ensure_future(s.launch(make_wanted()))
        await s.ticks()
        launch.cancel()
        store.gate.set()
        await s.until(lambda: store.get("wish", "m"))
        await s.until(s.world.alive)
        await s.state(M.READY)

    play(scene, store=store)


class Filling(SqliteStore):
    free = 10**10

    def free_bytes(self) -> int:
        return self.free


def test_a_disk_that_fills_up_is_told_once_while_there_is_room_for_it() -> None:
    store = Filling()

    async def scene(s: Scene) -> None:
        await s.ticks()
        assert await s.supervisor.events("") == []
        store.free = 499_000_000
        await s.until(lambda: s.supervisor._disk.free_bytes == store.free)
        await s.ticks()
        store.free = 10**10
        await s.until(lambda: len(store.events("")) == 2)
        warning, over = await s.supervisor.events("")
        assert (warning.level, over.level) == ("WARNING", "INFO")
        assert warning.text.startswith("Only 499 MB are free")
        assert await s.supervisor.free_bytes() == 10**10
        assert b"cluster_disk_free_bytes 1e+10" in page(await s.supervisor.samples("i", []))

    play(scene, store=store)
