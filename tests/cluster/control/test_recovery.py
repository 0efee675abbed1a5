from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster import errors
from cluster.cards import Card, CardUser
from cluster.control.placement import Placement
from cluster.control.sqlite_store import SqliteStore
from cluster.launch import Needs
from cluster.status import Claim, WorkerName
from deployments.ingress.routing import RouteTable
from tests.cluster.control.scenes import (
    M,
    Scene,
    changes,
    loading,
    play,
)
from tests.make import GIB, make_node, make_wanted


def test_after_everything_died_what_was_ready_is_recovering_and_what_never_was_is_loading() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        await s.launch(make_wanted("bad", options={"weights": "bad"}))
        await s.state(M.FAILED, "bad")
        await s.stop()
        for process in s.world.alive("m"):
            process.kill()
        s.world.loads = False
        await s.replace_supervisor()
        models = (await s.supervisor.watch(-1, 0)).models
        assert {uid: model.recovering for uid, model in models.items()} == {"m": True, "bad": False}
        with pytest.raises(errors.WorkerLost):
            raise RouteTable.why_not(models["m"])

    play(scene)


def test_a_new_supervisor_adopts_workers_on_cards_that_it_has_not_read_yet_and_places_nothing_beside_them() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("first", n_gpu="auto"))
        await s.stop()
        read = s.world.there[0]
        s.world.there = [replace(read, is_unread=True)]
        await s.replace_supervisor()
        await s.state(M.READY, "first")
        assert (await s.launch(make_wanted("second", n_gpu="auto"))).state != M.FAILED
        reason = "second fits on no node yet (n0: how full its cards are is not known yet)."
        assert (await s.state(M.WAITING, "second")).reason == reason
        await s.ticks()
        assert len(s.world.started) == 1 and s.world.the("first").alive
        others = Card(total_bytes=10 * GIB, used_bytes=10 * GIB, users=(CardUser(4711, "python", 9 * GIB),))
        s.world.there = [replace(read, cards=(others,))]
        await s.until(lambda: "used by others" in s.supervisor._fleet.waiting["second"].reason)
        s.world.there = [read]
        await s.state(M.READY, "second")

    play(scene, make_node("n0", gpus=1, card_gib=10))


def test_a_new_supervisor_adopts_the_same_workers() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("a", replica=2), make_wanted("b"))
        before = await s.supervisor.watch(-1, 0)
        started, processes = list(s.world.started), s.world.alive("a") + s.world.alive("b")
        await s.replace_supervisor()
        await s.state(M.READY, "a")
        after = await s.supervisor.watch(before.version, 0)
        assert after.version > before.version
        assert {uid: m.workers for uid, m in after.models.items()} == {
            uid: m.workers for uid, m in before.models.items()
        }
        assert after.handles == before.handles
        await s.ticks()
        assert s.world.started == started and all(process.alive for process in processes)
        assert [text for text in await s.events("b") if "Adopted" in text]

    play(scene)


def test_what_was_measured_outlives_the_supervisor() -> None:
    async def scene(s: Scene) -> None:
        s.world.peak = Needs(memory_bytes=3 * GIB)
        await s.ready(make_wanted(claim_gib=2))
        await s.until(lambda: s.store.all("peak"))
        await s.supervisor.terminate("m")
        await s.nothing_left()
        await s.replace_supervisor()
        fit = await s.supervisor.could_launch(make_wanted(claim_gib=2))
        assert fit.peak is not None
        assert fit.needs == fit.peak.needs == Needs(memory_bytes=3 * GIB)
        s.world.peak = None
        await s.ready(make_wanted(claim_gib=2))
        assert [worker.claim_bytes for worker in (await s.state(M.READY)).workers] == [3 * GIB]

    play(scene)


def test_a_new_supervisor_tells_nobody_anything_before_it_has_looked() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        s.world.find_errors = [ConnectionError("not yet")] * 3
        await s.replace_supervisor()
        snapshot = await s.supervisor.watch(-1, 0)
        assert [route.worker for route in snapshot.models["m"].workers] == s.world.started

    play(scene)


def test_orders_of_an_older_supervisor_are_refused() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        process, old_epoch = s.world.the(), s.world.the().epoch
        await s.replace_supervisor()
        await s.until(lambda: process.epoch > old_epoch)
        with pytest.raises(errors.StaleEpoch):
            await process.drain(old_epoch, timeout_s=1)

    play(scene)


def test_a_death_while_nobody_looked_is_found() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=2))
        await s.stop()
        s.world.alive()[0].kill()
        await s.replace_supervisor()
        await s.state(M.READY)
        assert len(s.world.alive()) == 2

    play(scene)


def test_a_worker_that_nobody_wants_is_ended_by_a_new_supervisor() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        await s.stop()
        s.store.delete("wish", "m")
        await s.replace_supervisor()
        await s.nothing_left()

    play(scene)


def test_a_worker_of_an_older_generation_gives_way_after_a_restart() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        old = s.world.the()
        await s.stop()
        s.store.put("wish", "m", make_wanted(generation=5).model_dump(mode="json"))
        await s.replace_supervisor()
        await s.until(lambda: not old.alive)
        assert s.world.the().name.generation == 5

    play(scene)


def test_a_worker_that_was_loading_goes_on_after_a_restart() -> None:
    async def scene(s: Scene) -> None:
        await loading(s)
        process = s.world.the()
        await s.replace_supervisor()
        assert (await s.supervisor.status("m")).state == M.LOADING
        process.load()
        await s.state(M.READY)
        assert s.world.the() is process

    play(scene)


def test_a_worker_that_was_never_told_to_load_does_not_keep_its_place_after_a_restart() -> None:
    """The supervisor ended after it had started the process and before it sent the first order."""

    async def scene(s: Scene) -> None:
        await s.supervisor._recovered.wait()
        await s.stop()
        wanted = make_wanted()
        s.store.put("wish", "m", wanted.model_dump(mode="json"))
        await s.world.start(WorkerName("m", 1, 0, "orphan"), wanted, Placement("n0", Claim(2**30)))
        await s.replace_supervisor()
        await s.until(lambda: s.supervisor._fleet.workers or s.supervisor._fleet.losses)
        s.world.clock_ahead += 2
        await s.state(M.READY)
        assert len(s.world.alive()) == 1

    play(scene)


def test_a_worker_that_does_not_answer_is_ended_before_it_is_replaced() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        mute = s.world.the()
        mute.answers = False
        await s.stop()
        await s.replace_supervisor()
        await s.until(lambda: mute.commands.count("describe") > 1)
        assert mute.alive
        s.world.clock_ahead += 16
        await s.state(M.READY)
        assert not mute.alive and len(s.world.alive()) == 1

    play(scene)


def test_a_worker_that_failed_is_not_adopted() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        process = s.world.the()
        await s.stop()
        process.tell(phase="failed", error=errors.LoadFailed("no"))
        await s.replace_supervisor()
        await s.state(M.READY)
        assert not process.alive

    play(scene)


def test_a_worker_that_cannot_be_understood_does_not_stop_a_new_supervisor() -> None:
    """A worker of another version, for example, whose answers cannot be read."""

    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("a"), make_wanted("b"))
        s.world.the("a").describe_error = errors.InferenceFailed("ValidationError: no such field")
        await s.replace_supervisor()
        async with asyncio.timeout(1):
            await s.state(M.READY, "b")

    play(scene)


def of_a_newer_version(s: Scene, **changes: Any) -> None:
    """What a later version would have stored while its workers ran."""
    s.store.put("wish", "m", {**s.store.get("wish", "m"), **(changes or {"colour": "red"})})  # type: ignore[dict-item]


NEWER = "It was launched by a newer version and this one cannot read colour: its workers go on as they are"


def test_a_wish_that_cannot_be_read_keeps_its_workers_and_its_route() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=2))
        processes, routed = s.world.alive(), s.world.routed()
        of_a_newer_version(s)
        before = s.store.get("wish", "m")
        await s.replace_supervisor()
        status = await s.state(M.DEGRADED)
        assert status.reason.startswith(NEWER) and (status.ready, status.replica) == (2, 2)
        assert s.world.routed() == routed == {str(process.name) for process in processes}
        await s.ticks()
        for process in processes:
            process.answers = False
        s.world.clock_ahead += 1000
        await s.ticks()
        assert s.world.alive() == processes and len(s.world.started) == 2
        assert s.world.ended_by_pid == []
        assert not {"drain"} & {command for process in processes for command in process.commands}
        for process in processes:
            process.answers = True
        processes[0].kill()
        await s.until(lambda: s.world.routed() == {str(processes[1].name)})
        s.world.clock_ahead += 1000
        await s.ticks()
        assert len(s.world.started) == 2 and s.store.get("wish", "m") == before
        processes[1].kill()
        status = await s.state(M.WAITING)
        assert status.reason.startswith(NEWER)
        assert not (await s.supervisor.watch(-1, 0)).models["m"].recovering

    play(scene)


@pytest.mark.parametrize("error", [errors.InferenceFailed("AttributeError: no such class"), errors.Unavailable("?")])
def test_a_worker_whose_answers_cannot_be_read_is_left_as_it_is(error: errors.ClusterError) -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=2))
        processes, routed = s.world.alive(), s.world.routed()
        of_a_newer_version(s)
        for process in processes:
            process.describe_error = error
        await s.stop()
        s.world.clock_ahead += 1
        await s.replace_supervisor()
        await s.until(lambda: all("describe" in process.commands for process in processes))
        s.world.clock_ahead += 16
        assert (await s.state(M.DEGRADED)).ready == 2
        assert s.world.routed() == routed
        await s.ticks()
        assert [worker.pid for worker in (await s.supervisor.status("m")).workers] == [p.pid for p in processes]
        assert s.world.alive() == processes
        processes[0].kill()
        await s.until(lambda: s.world.routed() == {str(processes[1].name)})
        await s.supervisor.terminate("m")
        await s.until(lambda: "drain" in processes[1].commands)
        s.world.clock_ahead += 61
        await s.nothing_left()

    play(scene)


def test_what_cannot_be_read_can_be_terminated_and_is_not_changed() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        of_a_newer_version(s)
        await s.replace_supervisor()
        await s.state(M.DEGRADED)
        for change in (s.launch(make_wanted()), s.launch(make_wanted(), False), s.supervisor.scale("m", 2)):
            with pytest.raises(errors.Conflict, match="m cannot be changed. It was launched by a newer version"):
                await change
        assert changes(await s.supervisor.apply([make_wanted()], prune=True, dry_run=False)) == {"m": "same"}
        await s.ticks()
        assert s.world.the().name.generation == 1 and s.store.get("wish", "m")["colour"] == "red"
        await s.supervisor.terminate("m")
        await s.nothing_left()
        await s.ready()

    play(scene)


def test_what_cannot_be_read_is_replaced_without_a_gap_by_what_is_declared_in_its_place() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        old = s.world.the()
        of_a_newer_version(s)
        await s.replace_supervisor()
        await s.state(M.DEGRADED)
        s.world.loads = False
        found = await s.supervisor.apply([make_wanted(replica=2)], prune=False, dry_run=False)
        assert changes(found) == {"m": "scale"}
        new = await s.until(lambda: [p for p in s.world.alive() if p is not old][1:] and s.world.alive()[1:])
        await s.ticks()
        assert s.world.routed() == {str(old.name)}
        for process in new:
            process.load()
        await s.state(M.READY)
        await s.until(lambda: not old.alive)

    play(scene)


def test_a_wish_that_is_not_even_json_is_shown_as_damaged(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    store.put("wish", "m", make_wanted().model_dump(mode="json"))
    with sqlite3.connect(tmp_path / "store.db") as db:
        db.execute("INSERT INTO wishes VALUES ('wish', 'broken', '{')")
    db.close()

    async def scene(s: Scene) -> None:
        async with asyncio.timeout(1):
            await s.state(M.READY)
        status = await s.state(M.WAITING, "broken")
        assert status.reason == "What is stored of it is damaged; terminate the model and launch it again."
        await s.supervisor.terminate("broken")
        assert [status.uid for status in await s.supervisor.all_statuses()] == ["m"]

    play(scene, store=store)


def test_what_runs_is_not_ended_for_a_store_that_lost_its_wish() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("kept"), make_wanted("lost", replica=2, options={"steps": 3}))
        await s.supervisor.scale("lost", 3)
        await s.state(M.READY, "lost")
        before, generation = s.world.alive("lost"), (await s.supervisor.status("lost")).generation
        s.store._db.execute("DELETE FROM wishes WHERE key='lost' OR kind='number'")
        await s.replace_supervisor(is_salvaged=True)
        status = await s.state(M.READY, "lost")
        assert (status.ready, status.replica, status.wanted.spec.options) == (3, 3, {"steps": 3})
        await s.ticks()
        assert s.world.alive("lost") == before
        assert (await s.launch(make_wanted("new"))).generation > generation
        await s.replace_supervisor()
        assert (await s.state(M.READY, "lost")).replica == 3
        await s.supervisor.terminate("lost")
        await s.until(lambda: not s.world.alive("lost"))
        await s.replace_supervisor(is_salvaged=True)
        assert {status.uid for status in await s.supervisor.all_statuses()} == {"kept", "new"}

    play(scene)


def test_a_damaged_wish_keeps_its_workers_which_know_what_they_are() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        before = (await s.supervisor.watch(-1, 0)).models["m"]
        s.store._db.execute("UPDATE wishes SET value='{' WHERE kind='wish'")
        await s.replace_supervisor()
        await s.state(M.DEGRADED)
        after = (await s.supervisor.watch(-1, 0)).models["m"]
        assert (after.workers, after.abilities, after.names) == (before.workers, before.abilities, before.names)

    play(scene)
