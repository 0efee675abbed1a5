from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster import errors
from cluster.control.sqlite_store import SqliteStore
from cluster.control.store import Row
from cluster.control.supervisor import Supervisor
from tests.cluster.control.scenes import (
    PATIENCE_S,
    M,
    Scene,
    play,
)
from tests.full_disk import unwritable
from tests.live import ROOT
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
        #: The models in each write.
        self.writes: list[list[str]] = []

    def put_all(self, rows: Sequence[Row]) -> None:
        if any(kind == "wish" for kind, _, _ in rows):
            self.gate.wait(PATIENCE_S)
            self.writes.append([key for kind, key, _ in rows if kind == "wish"])
        super().put_all(rows)


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
        assert b"cluster_disk_free_bytes 10000000000.0" in b"".join(await s.supervisor.metrics("i", b""))

    play(scene, store=store)


def test_launches_that_come_together_are_one_write_and_each_is_one_row() -> None:
    store = SlowStore()

    async def scene(s: Scene) -> None:
        launches = [asyncio.ensure_future(s.launch(make_wanted(f"m{number}", claim_gib=0.1))) for number in range(20)]
        await s.until(lambda: len(s.supervisor._fleet.accepted) == 20)
        store.gate.set()
        generations = [(await launch).generation for launch in launches]
        assert generations == list(range(1, 21))
        assert sum(map(len, store.writes)) == 20
        assert len(store.writes) < 5, "those that came while a write was under way are the next"
        assert store.number("generation") == 20

    play(scene, store=store)


def test_a_declared_list_is_few_writes() -> None:
    store = SlowStore()
    store.gate.set()

    async def scene(s: Scene) -> None:
        declared = [make_wanted(f"m{number:02}", claim_gib=0.1) for number in range(50)]
        await s.supervisor.apply(declared, prune=False, dry_run=False)
        assert len(store.writes) <= 3
        statuses = await s.supervisor.all_statuses()
        assert [status.uid for status in statuses] == [wanted.uid for wanted in declared]
        assert [status.generation for status in statuses] == list(range(1, 51))

    play(scene, store=store)


def test_room_is_taken_by_launches_that_are_still_being_written() -> None:
    store = SlowStore()

    async def scene(s: Scene) -> None:
        big = [asyncio.ensure_future(s.launch(make_wanted(uid, claim_gib=10))) for uid in ("a", "b", "c")]
        await s.until(lambda: big[2].done())
        assert isinstance(big[2].exception(), errors.DoesNotFit)
        store.gate.set()
        await asyncio.gather(*big[:2])

    play(scene, store=store)


def test_what_ends_a_model_waits_until_its_launch_is_written() -> None:
    store = SlowStore()

    async def scene(s: Scene) -> None:
        launch = asyncio.ensure_future(s.launch(make_wanted()))
        await s.until(lambda: s.supervisor._fleet.accepted)
        end = asyncio.ensure_future(s.supervisor.terminate("m"))
        again = asyncio.ensure_future(s.launch(make_wanted(options={"steps": 2})))
        await s.ticks()
        store.gate.set()
        assert (await launch).generation == 1
        await end
        assert (await again).generation == 2
        assert store.all("wish").keys() == {"m"}

    play(scene, store=store)


def test_launches_that_the_disk_refuses_together_take_no_room() -> None:
    async def scene(s: Scene) -> None:
        with unwritable(s.store):
            launches = (s.launch(make_wanted(uid, claim_gib=10)) for uid in ("a", "b"))
            failures = await asyncio.gather(*launches, return_exceptions=True)
        assert [type(failure) for failure in failures] == [errors.OutOfSpace] * 2
        assert not s.supervisor._fleet.accepted
        await s.ready(make_wanted("c", claim_gib=10), make_wanted("d", claim_gib=10))

    play(scene)


def test_a_crash_loses_no_launch_that_was_answered_and_gives_no_number_twice(tmp_path: Path) -> None:
    path = tmp_path / "cluster.db"
    given: set[int] = set()
    for pause_s in (0.0, 0.03, 0.11):
        command = [sys.executable, "-m", "tests.cluster.control.launching", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(5)]
            time.sleep(pause_s)
            process.kill()
            lines += process.stdout.readlines()
        answered = dict(part.split("=") for line in lines if line.endswith("\n") for part in line.split())
        assert len(answered) >= 50
        store = SqliteStore(path)
        stored = {uid: row["generation"] for uid, row in store.all("wish").items()}
        assert {uid: int(generation) for uid, generation in answered.items()}.items() <= stored.items()
        assert store.number("generation") >= max(stored.values())
        assert not given & set(map(int, answered.values()))
        given |= set(map(int, answered.values()))
        for uid in stored:
            store.delete("wish", uid)
        store.close()
