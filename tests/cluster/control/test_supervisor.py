from __future__ import annotations

import asyncio

import pytest

from cluster import errors
from cluster.status import Claim, WorkerName
from tests.cluster.control.scenes import (
    M,
    Scene,
    lost,
    play,
    starting,
)
from tests.make import make_node, make_wanted


def test_a_launch_is_started_loaded_and_routed() -> None:
    async def scene(s: Scene) -> None:
        status = await s.launch(make_wanted(replica=2))
        assert (status.state, status.generation, status.ready) == (M.LOADING, 1, 0)
        status = await s.state(M.READY)
        assert (status.ready, status.progress, len(status.workers)) == (2, 1.0, 2)
        assert {worker.node for worker in status.workers} == {"n0", "n1"}
        snapshot = await s.supervisor.watch(-1, 0)
        assert {route.worker for route in snapshot.models["m"].workers} == set(s.world.started)
        assert snapshot.handles == {name: f"actor of {name}" for name in s.world.started}
        events = await s.events()
        assert events[0] == "Launch model m, 2 replica(s)"
        assert events[1] == "Starting worker worker:m:1:0-s0 on n0"
        assert any(text.startswith("Worker worker:m:1:0-s0 is READY after") for text in events)

    play(scene)


def test_variables_that_a_stored_wish_may_not_set_are_told() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(envs={"OMP_NUM_THREADS": "1", "BROWSER": "x"}))
        assert "envs sets no BROWSER: CLUSTER_ALLOW_ENVS lacks it" in await s.events()

    play(scene)


def test_a_worker_is_routed_out_before_it_is_told_to_stop() -> None:
    """This holds also while another worker is being started, which takes time."""

    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=2))
        surplus = s.world.alive()[1]
        s.world.gate.clear()
        await s.supervisor.scale("m", 1)
        await s.launch(make_wanted("other"))
        await s.until(lambda: surplus.board.value.phase == "drained")
        s.world.gate.set()
        await s.state(M.READY, "other")

    play(scene)


def test_an_update_serves_without_a_gap() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        old = s.world.the()
        s.world.loads = False
        await s.supervisor.apply([make_wanted(options={"steps": 2})], prune=False, dry_run=False)
        new = (await s.until(lambda: [p for p in s.world.alive() if p is not old]))[0]
        await s.ticks()
        assert s.world.routed() == {str(old.name)}
        new.load()
        await s.until(lambda: not old.alive)
        assert s.world.routed() == {str(new.name)}
        assert (await s.state(M.READY)).generation == 2

    play(scene)


def test_a_restart_brings_a_new_process_before_the_old_one_goes() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        old = s.world.the()
        s.world.loads = False
        created = (await s.supervisor.status("m")).created
        status = await s.supervisor.restart("m", "it is stuck")
        assert (status.generation, status.created) == (2, created)
        new = (await s.until(lambda: [p for p in s.world.alive() if p is not old]))[0]
        await s.ticks()
        assert s.world.routed() == {str(old.name)} and new.wanted.spec == old.wanted.spec
        new.load()
        await s.until(lambda: not old.alive)
        assert s.world.routed() == {str(new.name)}
        assert "Restart model: it is stuck" in await s.events()

    play(scene)


def test_a_restart_without_room_for_both_is_one_replica_after_the_other() -> None:
    """Each node has room for one worker."""

    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(claim_gib=10, replica=2))
        old = s.world.alive()
        s.world.loads = False
        await s.supervisor.restart("m", "")
        (new,) = await s.until(lambda: [p for p in s.world.alive() if p not in old])
        await s.ticks()
        assert len(s.world.routed()) == 1 and len(s.world.alive()) == 2, "the other one serves until this one does"
        new.load()
        s.world.loads = True
        await s.until(lambda: [p.name.generation for p in s.world.alive()] == [2, 2])
        await s.state(M.READY)
        assert "Restart model" in await s.events()

    play(scene)


def test_a_restart_gives_a_model_that_failed_another_try() -> None:
    async def scene(s: Scene) -> None:
        await s.launch(make_wanted(options={"weights": "bad"}))
        await s.state(M.FAILED)
        s.world.load_errors.clear()
        await s.supervisor.restart("m", "")
        assert (await s.state(M.READY)).generation == 2

    play(scene)


def test_what_has_no_process_cannot_be_restarted() -> None:
    async def scene(s: Scene) -> None:
        with pytest.raises(errors.UnknownUid):
            await s.supervisor.restart("m", "")
        await s.ready()
        await s.supervisor.sleep("m")
        with pytest.raises(errors.Conflict, match="m sleeps, so there is no process of it to restart"):
            await s.supervisor.restart("m", "")

    play(scene)


def test_a_bad_update_leaves_the_old_serving() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        old = s.world.the()
        await s.supervisor.apply([make_wanted(options={"weights": "bad"})], prune=False, dry_run=False)
        await s.until(lambda: (len(s.world.processes) == 2) and s.world.alive() == [old])
        await s.ticks()
        status = await s.state(M.DEGRADED)
        assert status.reason == "m could not be loaded: bad weights"
        assert s.world.routed() == {str(old.name)}

    play(scene)


def test_after_a_bad_update_the_last_old_worker_is_replaced_when_it_dies() -> None:
    """A supervisor that was started later does this too, since it knows the old version from the store."""

    async def scene(s: Scene) -> None:
        await s.ready()
        old = s.world.the()
        await s.supervisor.apply([make_wanted(options={"weights": "bad"})], prune=False, dry_run=False)
        for _ in range(2):
            await s.supervisor.status("m")
            await s.until(lambda: "could not be loaded" in s.supervisor._publisher.statuses.value["m"].reason)
            s.world.the().kill()
            await s.until(lambda: not s.world.alive())
            assert (await s.supervisor.watch(-1, 0)).models["m"].recovering
            s.world.clock_ahead += 400
            again = await s.until(lambda: [p for p in s.world.alive() if str(p.name) in s.world.routed()])
            assert [(p.name.generation, p.wanted.spec) for p in again] == [(1, old.wanted.spec)]
            status = await s.state(M.DEGRADED)
            assert (status.generation, status.reason) == (2, "m could not be loaded: bad weights")
            await s.ticks()
            await s.replace_supervisor()
        assert [text for text in await s.events() if text.endswith("(until the new version is READY)")]
        await s.supervisor.apply([make_wanted(options={"weights": "good"})], prune=False, dry_run=False)
        await s.state(M.READY)
        await s.until(lambda: [p.name.generation for p in s.world.alive()] == [3])
        s.world.the().kill()
        s.world.clock_ahead += 400
        await s.until(lambda: [p.name.generation for p in s.world.alive()] == [3])

    play(scene)


def test_a_wish_that_changes_while_its_worker_is_being_started_gets_a_worker_of_its_own() -> None:
    async def scene(s: Scene) -> None:
        await starting(s)
        await s.supervisor.apply([make_wanted(options={"steps": 2})], prune=False, dry_run=False)
        s.world.gate.set()
        await s.state(M.READY)
        await s.until(lambda: len(s.world.alive()) == 1)
        process = s.world.the()
        assert (process.name.generation, process.wanted.generation) == (2, 2)
        assert all(p.name.generation == p.wanted.generation for p in s.world.processes.values())

    play(scene)


def test_a_dead_worker_is_replaced_after_its_pause() -> None:
    async def scene(s: Scene) -> None:
        await lost(s)
        await s.ticks()
        assert s.world.alive() == []
        s.world.clock_ahead += 1.1
        status = await s.state(M.READY)
        assert status.restarts == 1
        assert s.world.the().name == WorkerName("m", 1, 0, "s1")
        events = await s.events()
        assert "Worker worker:m:1:0-s0 is LOST: The process is gone." in events
        assert "Starting worker worker:m:1:0-s1 on n0 (lost)" in events

    play(scene)


def test_a_process_that_cannot_be_started_is_tried_again_with_a_pause() -> None:
    async def scene(s: Scene) -> None:
        s.world.start_error = RuntimeError("no more processes")
        await s.launch(make_wanted())
        await s.until(lambda: s.supervisor._fleet.losses)
        pauses = []
        for count in range(1, 5):
            await s.until(lambda count=count: [x for x in s.supervisor._fleet.losses.values() if x.count == count])  # type: ignore[misc]
            (loss,) = s.supervisor._fleet.losses.values()
            pauses.append(round(loss.not_before - s.world.clock()))
            await s.ticks()
            assert len(s.world.started) == count
            s.world.clock_ahead += loss.not_before - s.world.clock()
        assert pauses == [1, 2, 4, 8]
        assert "Worker worker:m:1:0-s0 is LOST: could not be started: no more processes" in await s.events()
        s.world.start_error = None
        (loss,) = s.supervisor._fleet.losses.values()
        s.world.clock_ahead += 20
        await s.state(M.READY)

    play(scene)


def test_what_would_be_ready_sooner_later_is_started_later() -> None:
    async def scene(s: Scene) -> None:
        s.world.is_importing = True
        await s.launch(make_wanted())
        await s.ticks()
        assert s.world.started == [] and not s.supervisor._fleet.losses
        s.world.is_importing = False
        await s.state(M.READY)

    play(scene)


def test_one_that_cannot_be_started_does_not_stop_the_others() -> None:
    async def scene(s: Scene) -> None:
        s.world.start_error = RuntimeError("not now")
        await s.launch(make_wanted("a"))
        await s.until(lambda: s.supervisor._fleet.losses)
        s.world.start_error = None
        await s.ready(make_wanted("b"))

    play(scene)


def test_workers_of_a_node_that_is_gone_are_replaced_on_another() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        first = s.world.the()
        s.world.there = [make_node("n1")]
        await s.until(lambda: not first.alive)
        assert "Worker worker:m:1:0-s0 is LOST: its node is gone" in await s.events()
        s.world.clock_ahead += 1.1
        await s.state(M.READY)
        assert (await s.supervisor.status("m")).workers[0].node == "n1"

    play(scene)


def test_when_many_nodes_vanish_nothing_is_started_for_a_while() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=4))
        s.world.there = [make_node("n0")]
        await s.until(lambda: len(s.world.alive()) == 1)
        s.world.clock_ahead += 10
        await s.ticks()
        assert (await s.supervisor.status("m")).reason == "many nodes vanished at once; waiting for them"
        s.world.clock_ahead += 11
        await s.state(M.READY)

    play(scene, *(make_node(f"n{i}") for i in range(4)), storm_hold_s=20)


def test_stopping_ends_at_once_whatever_has_just_happened() -> None:
    async def scene(s: Scene) -> None:
        for uid in "abc":
            await s.launch(make_wanted(uid))
            await asyncio.wait_for(s.supervisor.stop(), 1)
            await s.replace_supervisor()
            await s.state(M.READY, uid)

    play(scene)


def test_one_bad_tick_is_not_the_last() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("a"))
        there, s.world.there = s.world.there, None  # type: ignore[assignment]
        await s.until(lambda: "a tick failed" in s.complaints.told)
        s.world.there = there
        await s.ready(make_wanted("b"))
        s.complaints.told.clear()

    play(scene)


def test_nodes_say_what_is_claimed_of_them() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("a", claim_gib=2), make_wanted("b", n_gpu=0.5))
        found = {node.id: (claim, workers) for node, claim, workers in await s.supervisor.nodes()}
        assert found == {"n0": (Claim(2 * 2**30), 1), "n1": (Claim(0, ((0, 0.5),), 0.0, 2**30), 1)}

    play(scene, make_node("n0", memory_gib=32), make_node("n1", gpus=1))


# ---------------------------------------------------------------------------------------------- two supervisors


def test_a_supervisor_stands_back_when_a_newer_one_commands_the_workers() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        older, first = s.supervisor, s.world.the()
        s.supervisor = s._make()
        s.supervisor.begin()
        await s.until(lambda: s.world.stood_back)
        # Of two that plan, each would start a worker in the place of this one.
        first.kill()
        s.world.clock_ahead += 1.1
        await s.until(lambda: len(s.world.started) == 2)
        await s.state(M.READY)
        await s.ticks()
        assert len(s.world.started) == 2 and s.world.stood_back == 1
        await older.stop()

    play(scene)


def test_a_supervisor_that_comes_back_after_a_newer_one_is_obeyed_again() -> None:
    """Its epoch was an older one: it could not even drain a worker that was terminated."""

    async def scene(s: Scene) -> None:
        await s.ready()
        older = s.supervisor
        newer = s.supervisor = s._make()
        newer.begin()
        await s.until(lambda: s.world.stood_back)
        await older.stop()
        await newer.stop()
        await s.replace_supervisor()
        await s.supervisor.terminate("m")
        await s.nothing_left()

    play(scene)


def test_a_supervisor_does_nothing_while_it_is_unknown_which_one_is_in_charge() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        older, process = s.supervisor, s.world.the()
        unknown = [ConnectionError("not now")] * 3

        async def stand_back() -> None:
            s.world.stood_back += 1
            if unknown:
                raise unknown.pop()

        s.world.stand_back = stand_back  # type: ignore[method-assign]
        process.epoch += 1_000_000
        await s.until(lambda: s.world.stood_back == 4)
        assert process.alive and older._task is not None
        await s.until(older._task.done)
        process.kill()

    play(scene)
