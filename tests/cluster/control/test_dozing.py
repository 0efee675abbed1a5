from __future__ import annotations

from typing import Any

import pytest

from cluster import errors
from cluster.control.making_room import LEAST_S
from cluster.control.platform import Lease
from tests.cluster.control.scenes import M, S, Scene, play
from tests.make import make_node, make_wanted

NAP = {"idle_doze_s": 0.1}
SMALL = make_node("n0", memory_gib=1)


async def dozing(s: Scene, uid: str = "m") -> None:
    await s.state(M.DOZING, uid)
    statuses = s.supervisor._publisher.statuses
    await s.until(lambda: {worker.state for worker in statuses.value[uid].workers} == {S.DOZING})


async def idle_for(s: Scene, seconds: float) -> None:
    s.world.clock_ahead += seconds
    await s.ticks()


def test_an_idle_model_dozes_and_its_own_processes_load_it_again() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=2, **NAP))
        await dozing(s)
        processes = s.world.alive()
        status = await s.supervisor.status("m")
        # Nobody knows yet what waking costs.
        assert (status.reason, status.ready) == ("idle for 0.1 s; the next request wakes it", 0)
        assert [worker.claim_bytes for worker in status.workers] == [s.world.dozing_bytes] * 2
        routes = (await s.supervisor.watch(-1, 0)).models["m"]
        assert routes.is_asleep and routes.workers == ()
        await s.supervisor.wake("m")
        await s.until(lambda: all(process.board.value.loads == 2 for process in processes))
        for process in processes:
            process.use()
        status = await s.state(M.READY)
        assert s.world.alive() == processes and len(s.world.started) == 2
        assert [worker.claim_bytes for worker in status.workers] == [2**30] * 2
        for process in processes:
            process.tell(is_idle=True)
        await dozing(s)
        assert (await s.supervisor.status("m")).reason.endswith("wakes it, which takes about 0.0 s")
        assert [event for event in await s.events() if "Doz" in event] == ["Dozes: idle for 0.1 s"] * 2

    play(scene)


def test_what_dozes_goes_on_to_sleep() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(idle_doze_s=0.1, idle_sleep_s=50))
        await dozing(s)
        assert s.world.alive()
        await idle_for(s, 51)
        assert (await s.state(M.ASLEEP)).reason.startswith("idle for 50 s; the next request wakes it, which takes")
        await s.until(lambda: not s.world.alive())

    play(scene)


@pytest.mark.parametrize("fields", [{}, {"idle_doze_s": 0}, {**NAP, "pinned": True}])
def test_a_model_that_may_not_doze_stays(fields: dict[str, Any]) -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(**fields))
        await idle_for(s, 1000)
        assert (await s.supervisor.status("m")).state == M.READY

    play(scene)


def test_what_a_launch_does_not_say_of_dozing_the_installation_does() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(), make_wanted("other", idle_doze_s=0))
        await dozing(s)
        assert (await s.supervisor.status("other")).state == M.READY

    play(scene, idle_doze_s=0.1)


def test_one_that_finishes_what_it_has_before_it_dozes_serves_on_when_it_is_woken() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        worker = s.world.the()
        worker.in_hand = 1
        assert (await s.supervisor.doze("m")).state == M.DOZING
        await s.until(lambda: s.supervisor._fleet.of("m")[0].report.phase == "nodding")
        assert not s.world.routed()
        await s.supervisor.wake("m")
        await s.state(M.READY)
        assert s.world.routed() == {str(worker.name)} and worker.board.value.loads == 1

    play(scene)


def test_one_whose_process_dies_while_it_dozes_sleeps_and_is_not_started_again() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        await s.supervisor.doze("m")
        await dozing(s)
        s.world.the().kill()
        status = await s.state(M.ASLEEP)
        assert status.reason.startswith("its process ended while it dozed (somebody let it doze); the next request")
        await s.ticks()
        assert (len(s.world.started), status.restarts) == (1, 0)
        assert not s.supervisor._fleet.losses
        await s.supervisor.wake("m")
        await s.state(M.READY)

    play(scene)


def test_one_that_cannot_let_go_of_its_model_sleeps() -> None:
    async def scene(s: Scene) -> None:
        s.world.lets_go = False
        await s.ready()
        await s.supervisor.doze("m")
        await s.state(M.ASLEEP)
        await s.until(lambda: not s.world.alive())

    play(scene)


def test_one_that_is_loading_or_unknown_does_not_doze() -> None:
    async def scene(s: Scene) -> None:
        s.world.loads = False
        await s.launch(make_wanted())
        await s.launch(make_wanted("pinned", pinned=True))
        assert (await s.supervisor.doze("m")).state == M.ASLEEP
        with pytest.raises(errors.Conflict, match="pinned is pinned"):
            await s.supervisor.doze("pinned")
        with pytest.raises(errors.UnknownUid):
            await s.supervisor.doze("nothing")

    play(scene)


def test_one_that_cannot_load_again_is_started_anew() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(options={"weights": "good"}))
        await s.supervisor.doze("m")
        await dozing(s)
        s.world.load_errors["good"] = errors.LoadFailed("no memory left")
        await s.supervisor.wake("m")
        await s.state(M.WAITING)
        del s.world.load_errors["good"]
        await idle_for(s, 5)
        await s.state(M.READY)
        assert len(s.world.started) == 2

    play(scene)


def test_the_next_supervisor_lets_it_doze_on() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        await s.supervisor.doze("m")
        await dozing(s)
        await s.until(lambda: s.store.all("rest").get("m", {}).get("is_dozing"))
        process = s.world.the()
        await s.replace_supervisor()
        await dozing(s)
        assert (await s.supervisor.status("m")).workers[0].claim_bytes == s.world.dozing_bytes
        await s.supervisor.wake("m")
        assert (await s.state(M.READY)).workers[0].claim_bytes == 2**30
        assert s.world.the() is process

    play(scene)


def test_an_update_ends_what_dozes() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        await s.supervisor.doze("m")
        await dozing(s)
        await s.supervisor.apply([make_wanted(options={"steps": 2})], prune=False, dry_run=False)
        await s.state(M.ASLEEP)
        await s.until(lambda: not s.world.alive())

    play(scene)


def test_a_launch_lets_one_doze_where_that_is_enough_and_sleep_where_it_is_not() -> None:
    async def scene(s: Scene) -> None:
        s.world.dozing_bytes = 2**30 // 10
        await s.ready(make_wanted("a", claim_gib=0.8))
        s.supervisor._fleet.resting.dozing_bytes["a"] = s.world.dozing_bytes
        await idle_for(s, LEAST_S)
        await s.launch(make_wanted("b", claim_gib=0.8))
        await s.state(M.READY, "b")
        assert (await s.supervisor.status("a")).state == M.DOZING
        await idle_for(s, LEAST_S)
        await s.launch(make_wanted("c", claim_gib=1))
        await s.state(M.READY, "c")
        assert {(await s.supervisor.status(uid)).state for uid in "ab"} == {M.ASLEEP}

    play(scene, SMALL)


def test_two_that_doze_and_are_woken_at_once_do_not_wait_for_each_other() -> None:
    """Each could load again if the other's process were gone."""

    async def scene(s: Scene) -> None:
        s.world.dozing_bytes = int(0.3 * 2**30)
        for uid in "ab":
            await s.ready(make_wanted(uid, claim_gib=0.6))
            await s.supervisor.doze(uid)
            await dozing(s, uid)
        await s.ready(make_wanted("c", claim_gib=0.3, pinned=True))
        for uid in "ab":
            await s.supervisor.wake(uid)
        await s.state(M.READY, "a")
        assert len(s.world.started) == 3 and not s.world.alive("b")
        assert "b gave way to a" in await s.events("")
        await idle_for(s, LEAST_S)
        await s.state(M.READY, "b")

    play(scene, SMALL)


# -------------------------------------------------------------------------------------------------- cards


ONE_CARD = make_node("n0", memory_gib=8, gpus=1, card_gib=10)
ON_CARD = {"n_gpu": "auto", "claim_gib": 6}


def test_a_model_that_dozes_gives_its_card_to_another_and_waits_for_it_when_it_is_woken() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("first", **ON_CARD))
        await s.ticks()
        assert list(s.world.leases.values()) == [Lease("n0", 0.6)]
        await s.supervisor.doze("first")
        await dozing(s, "first")
        await s.ticks()
        assert s.world.leases == {}
        await s.ready(make_wanted("second", **ON_CARD, pinned=True))
        await s.ticks()
        (name,) = s.world.leases
        assert name.startswith("worker:second:")
        # It is pinned, so nobody can make room.
        await s.supervisor.wake("first")
        await s.until(lambda: "first" in s.supervisor._fleet.waiting)
        assert "0.4 of a GPU free, 0.6 asked" in s.supervisor._fleet.waiting["first"].reason
        await s.supervisor.terminate("second")
        await s.state(M.READY, uid="first")
        await s.ticks()
        assert [name.split(":")[1] for name in s.world.leases] == ["first"]
        assert len(s.world.started) == 2, "its process had stayed, and loaded again"

    play(scene, ONE_CARD)


def test_two_models_on_one_card_doze_for_each_other() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("first", **ON_CARD))
        await s.supervisor.launch(make_wanted("second", **ON_CARD), True)
        s.world.the("first").tell(is_idle=True)
        s.world.clock_ahead += LEAST_S + 1
        await s.state(M.READY, uid="second")
        assert (await s.state(M.DOZING, uid="first")).ready == 0
        assert s.world.alive("first") and s.world.alive("second")

    play(scene, ONE_CARD)


def test_what_dozes_does_not_get_another_card_than_its_process_sees() -> None:
    """It is started anew where there is room on another one only."""

    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("first", **ON_CARD, gpu_idx=[0]))
        await s.supervisor.doze("first")
        await dozing(s, "first")
        await s.ready(make_wanted("pinned", **ON_CARD, gpu_idx=[0], pinned=True))
        await s.ready(make_wanted("free", **ON_CARD))
        await s.supervisor.doze("free")
        await dozing(s, "free")
        await s.ready(make_wanted("again", **ON_CARD, gpu_idx=[1], pinned=True))
        await s.supervisor.terminate("pinned")
        await s.supervisor.wake("free")
        status = await s.state(M.READY, uid="free")
        assert [worker.cards for worker in status.workers] == [(0,)]
        assert len([name for name in s.world.started if name.startswith("worker:free:")]) == 2

    play(scene, make_node("n0", memory_gib=16, gpus=2, card_gib=10))


def test_the_lease_of_a_worker_that_dies_goes_with_it() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("first", **ON_CARD))
        await s.ticks()
        (before,) = s.world.leases
        s.world.the("first").kill()
        await s.until(lambda: s.world.leases and before not in s.world.leases)
        (after,) = s.world.leases
        assert after.startswith("worker:first:")

    play(scene, ONE_CARD)
