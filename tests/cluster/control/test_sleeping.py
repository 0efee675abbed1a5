from __future__ import annotations

from typing import Any

import pytest

from cluster import errors
from cluster.control.resting import usual_s
from tests.cluster.control.scenes import M, Scene, play
from tests.make import make_wanted

NAP = {"idle_sleep_s": 0.1}


async def asleep(s: Scene, uid: str = "m") -> None:
    await s.state(M.ASLEEP, uid)
    await s.until(lambda: not s.world.alive(uid))


def test_an_idle_model_sleeps_and_wakes_when_it_is_asked_for() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=2, **NAP))
        await asleep(s)
        status = await s.supervisor.status("m")
        assert status.reason == "idle for 0.1 s; the next request wakes it, which takes about 0.1 s"
        assert (status.ready, status.wake_s) == (0, 0.1)
        routes = (await s.supervisor.watch(-1, 0)).models["m"]
        assert routes.is_asleep and routes.workers == ()
        s.world.loads = False
        await s.supervisor.wake("m")
        assert (await s.supervisor.watch(-1, 0)).models["m"].waking
        await s.until(lambda: sum("start" in process.commands for process in s.world.alive()) == 2)
        for process in s.world.alive():
            process.load()
            process.use()
        await s.state(M.READY)
        assert not (await s.supervisor.watch(-1, 0)).models["m"].waking

    play(scene)


def test_a_model_that_is_used_stays_awake_and_one_idle_worker_is_not_enough() -> None:
    async def scene(s: Scene) -> None:
        await s.launch(make_wanted(replica=2, **NAP))
        first = (await s.until(lambda: s.world.alive()))[0]
        first.use()
        await s.state(M.READY)
        s.world.clock_ahead += 10
        await s.ticks()
        assert len(s.world.alive()) == 2
        first.tell(is_idle=True)
        await asleep(s)

    play(scene)


@pytest.mark.parametrize("fields", [{}, {"idle_sleep_s": 0}, {**NAP, "pinned": True}])
def test_a_model_that_may_not_sleep_stays(fields: dict[str, Any]) -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(**fields))
        s.world.clock_ahead += 1000
        await s.ticks()
        assert s.world.alive()

    play(scene)


def test_what_a_launch_does_not_say_the_installation_does() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(), make_wanted("other", idle_sleep_s=0))
        await asleep(s)
        assert s.world.alive("other")

    play(scene, idle_sleep_s=0.1)


def test_one_that_is_sent_to_sleep_finishes_what_it_has() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        worker = s.world.the()
        worker.in_hand = 1
        assert (await s.supervisor.sleep("m")).state == M.ASLEEP
        await s.ticks()
        assert worker.alive and not s.world.routed()
        worker.finish()
        await asleep(s)

    play(scene)


def test_a_pinned_or_unknown_one_cannot_be_sent_to_sleep() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(pinned=True))
        with pytest.raises(errors.Conflict, match="m is pinned"):
            await s.supervisor.sleep("m")
        for command in (s.supervisor.sleep, s.supervisor.wake):
            with pytest.raises(errors.UnknownUid):
                await command("nothing")

    play(scene)


def test_one_that_is_woken_while_its_last_worker_still_leaves_gets_another() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        old = s.world.the()
        old.in_hand = 1
        await s.supervisor.sleep("m")
        await s.until(lambda: "drain" in old.commands)
        await s.supervisor.wake("m")
        await s.state(M.READY)
        assert len(s.world.routed()) == 1 and str(old.name) not in s.world.routed()
        old.finish()
        await s.until(lambda: not old.alive)

    play(scene)


def test_a_launch_may_begin_asleep_and_needs_no_room_until_it_is_used() -> None:
    async def scene(s: Scene) -> None:
        status = await s.launch(make_wanted(claim_gib=1000, asleep=True))
        assert (status.state, status.reason) == (M.ASLEEP, "not used yet; the next request wakes it")
        await s.ticks()
        assert not s.world.started
        await s.supervisor.wake("m")
        assert "fits on no node" in (await s.state(M.WAITING)).reason
        # Launching it again is the same launch.
        await s.launch(make_wanted(claim_gib=1000))

    play(scene)


def test_the_next_supervisor_lets_it_sleep_on() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(), make_wanted("other"))
        await s.supervisor.sleep("m")
        await asleep(s)
        await s.until(lambda: "m" in s.store.all("rest"))
        started = list(s.world.started)
        await s.replace_supervisor()
        status = await s.state(M.ASLEEP)
        assert status.reason.startswith("somebody sent it to sleep") and status.wake_s == 0.1
        await s.ticks()
        assert s.world.started == started
        await s.supervisor.wake("m")
        await s.state(M.READY)
        await s.until(lambda: not s.store.all("rest")["m"]["is_asleep"])
        await s.replace_supervisor()
        await s.state(M.READY)
        await s.supervisor.terminate("m")
        assert "m" not in s.store.all("rest")

    play(scene)


def test_one_that_cannot_be_loaded_any_more_says_so_instead_of_waking() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(options={"weights": "good"}))
        await s.supervisor.sleep("m")
        await asleep(s)
        s.world.load_errors["good"] = errors.LoadFailed("m could not be loaded: gone")
        await s.supervisor.wake("m")
        assert (await s.state(M.FAILED)).reason == "m could not be loaded: gone"
        assert not (await s.supervisor.watch(-1, 0)).models["m"].rests

    play(scene)


def test_when_it_may_sleep_changes_without_another_worker() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        (change,) = await s.supervisor.apply([make_wanted(**NAP)], prune=False, dry_run=False)
        assert (change.change, change.fields) == ("adjust", ("idle_sleep_s",))
        await asleep(s)
        assert len(s.world.started) == 1

    play(scene)


def test_a_request_may_say_how_long_its_model_stays_until_that_sleeps() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        assert await s.supervisor.left_s() == {"m": None}
        await s.supervisor.keep("m", 300.0)
        (left_s,) = (await s.supervisor.left_s()).values()
        assert left_s is not None and 290 < left_s <= 300
        await s.ticks()
        assert s.supervisor._publisher.snapshots.value.models["m"].sleep_s == 300.0
        await s.until(lambda: s.store.all("rest")["m"]["kept_s"] == 300.0)
        await s.replace_supervisor()
        await s.state(M.READY)
        s.world.clock_ahead += 299
        await s.ticks()
        assert s.world.alive()
        s.world.clock_ahead += 2
        await s.state(M.ASLEEP)
        assert "Goes to sleep: idle for 300 s" in await s.events()
        assert await s.supervisor.left_s() == {}
        await s.supervisor.wake("m")
        await s.state(M.READY)
        assert await s.supervisor.left_s() == {"m": None}

    play(scene)


def test_one_that_is_not_kept_goes_when_it_has_nothing_to_do_and_one_kept_for_ever_stays() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(idle_sleep_s=60, idle_doze_s=30))
        s.world.the().use()
        await s.until(lambda: "m" not in s.supervisor._fleet.resting.idle)
        await s.supervisor.keep("m", 0.001)
        await s.ticks()
        assert s.world.alive(), "it was asked something"
        s.world.the().tell(is_idle=True)
        await s.state(M.ASLEEP)
        assert "Goes to sleep: not kept after its last request" in await s.events()
        await s.supervisor.wake("m")
        await s.state(M.READY)
        await s.supervisor.keep("m", 0.0)
        s.world.clock_ahead += 1000
        await s.ticks()
        assert s.world.alive() and (await s.supervisor.status("m")).state == M.READY

    play(scene)


def test_what_must_not_sleep_stays_whatever_a_request_says() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(pinned=True))
        await s.supervisor.keep("m", 0.001)
        await s.ticks()
        assert s.world.alive() and await s.supervisor.left_s() == {"m": None}
        with pytest.raises(errors.UnknownUid):
            await s.supervisor.keep("nobody", 1.0)

    play(scene)


def test_a_launch_that_says_otherwise_comes_before_an_older_request() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        await s.supervisor.keep("m", 300.0)
        await s.supervisor.apply([make_wanted(idle_sleep_s=20)], prune=False, dry_run=False)
        (left_s,) = (await s.supervisor.left_s()).values()
        assert left_s is not None and left_s <= 20

    play(scene)


def test_one_load_that_took_long_says_little_of_the_next() -> None:
    """Or whoever was loaded while the machine was busy would be kept instead of whoever is asked for."""
    assert (usual_s(None, 2.0), usual_s(2.0, 10.0), usual_s(3.6, 1.0)) == (2.0, 3.6, 1.0)
    usual = 1.0
    for _ in range(20):
        usual = usual_s(usual, 10.0)
    assert usual == pytest.approx(10.0, rel=0.02), "what takes longer from now on is believed in the end"
