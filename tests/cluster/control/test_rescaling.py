from __future__ import annotations

from dataclasses import replace

import pytest

from cluster import errors
from cluster.control.fleet import Fleet
from cluster.control.making_room import tell_ways, ways_of
from cluster.control.reconcile import FleetPlan
from cluster.control.rescaling import follow, give_back, numbers_of, scale_status
from cluster.control.views import status_of
from cluster.status import Load, ScaleNumbers
from tests.cluster.control.fleets import carry_out, fleet, ready, serving
from tests.cluster.control.scenes import M, Scene, play
from tests.make import make_node, make_wanted

FOLLOWS = {"max_replica": 4, "target_queue_s": 0.2}
BUSY = Load(0.9, 0.1, 40, 1.0)
#: For a scene: a minute passes in an instant there.
QUICK = {"scale_down_s": 0.3}


def test_what_waits_brings_replicas_and_says_why() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(**FOLLOWS))
        s.world.the().tell(is_idle=False, load=BUSY)
        await s.until(lambda: len(s.world.alive()) == 4)
        for worker in await s.until(lambda: s.world.alive()):
            worker.tell(is_idle=False, load=Load(0.15, 0.1, 10, 1.0))
        status = await s.state(M.READY)
        assert (status.replica, status.scale.min, status.scale.max) == (4, 1, 4)
        assert status.scale.why == "Scaled from 1 to 4: requests waited 0.9 s, target 0.2 s"
        assert status.scale.why in await s.events()
        for worker in s.world.alive():
            worker.tell(load=Load(0, 0.01, 0.25, 0.06))
        await s.until(lambda: len(s.world.alive()) == 1)
        assert s.world.the().name.index == 0
        assert "Scaled from 2 to 1: 1 would have been enough for 0.3 s" in await s.events()

    play(scene, **QUICK)


def test_a_model_that_may_go_to_none_sleeps_when_unused_and_begins_with_one_replica() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(min_replica=0, replica=3, **FOLLOWS))
        await s.state(M.ASLEEP)
        await s.until(lambda: not s.world.alive())
        assert (await s.supervisor.scale_of("m")).replica == 0
        await s.supervisor.wake("m")
        await s.state(M.READY)
        assert len(s.world.alive()) == 1

    play(scene, **QUICK)


def test_one_that_must_have_a_replica_does_not_sleep() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(**FOLLOWS))
        s.world.clock_ahead += 1000
        await s.ticks()
        assert s.world.alive()

    play(scene, idle_sleep_s=0.1)


def test_the_next_supervisor_goes_on_with_as_many_replicas() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(**FOLLOWS))
        s.world.the().tell(is_idle=False, load=BUSY)
        await s.until(lambda: len(s.world.alive()) == 4)
        await s.until(lambda: s.store.all("scale") == {"m": {"replica": 4}})
        started = list(s.world.started)
        await s.replace_supervisor()
        await s.state(M.READY)
        assert (await s.supervisor.status("m")).replica == 4
        await s.ticks()
        assert s.world.started == started
        await s.supervisor.terminate("m")
        assert s.store.all("scale") == {}

    play(scene)


def test_people_set_the_number_and_its_bounds() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        status = await s.supervisor.scale("m", None, {"max_replica": 3})
        assert (status.replica, status.scale.max) == (1, 3)
        assert (await s.supervisor.scale("m", 3)).replica == 3
        await s.until(lambda: len(s.world.alive()) == 3)
        with pytest.raises(errors.BadOption, match="m has 1 to 3 replicas, not 4"):
            await s.supervisor.scale("m", 4)
        assert (await s.supervisor.scale("m", None, {"max_replica": 2, "min_replica": 0})).replica == 2
        await s.supervisor.sleep("m")
        await s.supervisor.scale("m", 2)
        await s.until(lambda: len([p for p in s.world.alive() if "drain" not in p.commands]) == 2)
        assert (await s.supervisor.scale_of("m")).min == 0

    play(scene)


def test_declaring_it_again_leaves_what_the_load_has_brought_about() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(**FOLLOWS))
        await s.supervisor.scale("m", 3)
        (same,) = await s.supervisor.apply([make_wanted(**FOLLOWS)], prune=False, dry_run=False)
        assert (same.change, (await s.supervisor.status("m")).replica) == ("same", 3)
        other = make_wanted(max_replica=2, target_queue_s=0.2)
        (change,) = await s.supervisor.apply([other], prune=False, dry_run=False)
        assert (change.change, change.fields) == ("scale", ("max_replica",))
        assert (await s.supervisor.status("m")).replica == 2

    play(scene)


def test_numbers_for_other_autoscalers() -> None:
    found = serving(make_wanted(**FOLLOWS))
    (name,) = found.workers
    found.see_report(name, ready(load=BUSY, is_idle=False), 1.0)
    assert numbers_of(found, found.wanted["m"], 1.0) == ScaleNumbers(
        min=1, max=4, target_queue_s=0.2, replica=1, ready=1, queue_s=0.9, requests=40, used=1.0
    )
    fixed = serving(make_wanted(replica=2))
    assert numbers_of(fixed, fixed.wanted["m"], 1.0) == ScaleNumbers(min=2, max=2, replica=2, ready=2)


def test_news_of_the_load_change_neither_routes_nor_statuses_nor_plans() -> None:
    found = serving(make_wanted(**FOLLOWS))
    (name,) = found.workers
    found.plan(0.5)
    found.take_changed()
    found.see_report(name, ready(load=BUSY), 1.0)
    assert not found.take_changed() and not found.workers.unplanned
    assert [worker.report.load for worker in found.of("m")] == [BUSY]
    assert found.scales.watched == {"m"}


def test_models_at_rest_are_not_looked_at() -> None:
    found = serving(make_wanted(**FOLLOWS), make_wanted("fixed", replica=2))
    follow(found, 1.0)
    assert not found.scales.watched and not found.scales.past


def more(found: Fleet, now: float = 0.0) -> list[str]:
    """Three seconds of load."""
    return [str(change) for second in range(4) for change in follow(found, now + second)]


def test_what_has_no_room_drives_nobody_away_and_is_not_asked_for_again() -> None:
    found = serving(
        make_wanted(claim_gib=4, **FOLLOWS), make_wanted("idle", claim_gib=8), nodes=[make_node(memory_gib=16)]
    )
    name = next(name for name in found.workers if ":m:" in name)
    found.see_report(name, ready(load=BUSY, is_idle=False), 1.0)
    assert more(found) == ["Scaled from 1 to 4: requests waited 0.9 s, target 0.2 s"]
    for started in carry_out(found, 10.0):
        found.see_report(started, ready(load=BUSY, is_idle=False), 10.0)
    carry_out(found, 11.0)
    assert ways_of(found, 1000.0, FleetPlan()) == {}
    assert more(found, 12.0) == []
    status = status_of(found, found.wanted["m"])
    assert (status.state, status.ready, status.replica, status.error_code) == (M.READY, 2, 4, "")
    assert status.scale is not None and status.scale.why.startswith("wants 4, m fits on no node")


def test_a_launch_gets_the_room_of_a_replica_before_a_model_sleeps_for_it() -> None:
    found = serving(make_wanted(claim_gib=5, replica=3, **FOLLOWS), nodes=[make_node(memory_gib=16)])
    for name in found.workers:
        found.see_report(name, ready(load=BUSY, is_idle=False), 1.0)
    found.want(make_wanted("other", claim_gib=4))
    carry_out(found, 2.0)
    ways = ways_of(found, 100.0, FleetPlan())
    tell_ways(found, ways)
    assert (ways["other"].leaving, ways["other"].yielding) == ((), ("m",))
    assert str(give_back(found, "m", 100.0)) == "Scaled from 3 to 2: another model had no room"
    found.see_report(str(found.of("m")[-1]), replace(found.of("m")[-1].report, phase="drained"), 101.0)
    carry_out(found, 101.0)
    carry_out(found, 102.0)
    assert len(found.of("other")) == 1
    # It does not take it back at once.
    assert more(found, 101.0) == []
    assert more(found, 131.0) == ["Scaled from 2 to 4: requests waited 0.9 s, target 0.2 s"]


def test_a_launch_gets_the_room_of_several_replicas_and_is_not_refused_for_it() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(claim_gib=4, **FOLLOWS))
        s.world.the().tell(is_idle=False, load=BUSY)
        await s.until(lambda: len(s.world.alive()) == 4)
        for worker in s.world.alive():
            worker.tell(is_idle=False, load=BUSY)
        await s.launch(make_wanted("other", claim_gib=8))
        await s.state(M.READY, "other")
        assert len(s.world.alive()) == 2 and s.world.alive("other")
        assert (await s.events()).count("Scaled from 3 to 2: another model had no room") == 1
        with pytest.raises(errors.DoesNotFit):
            await s.launch(make_wanted("third", claim_gib=13))

    play(scene, make_node(memory_gib=16))


def test_one_that_has_only_what_it_must_gives_nothing_back() -> None:
    found = serving(make_wanted(claim_gib=5, replica=3, min_replica=3, max_replica=4), nodes=[make_node(memory_gib=16)])
    for name in found.workers:
        found.see_report(name, ready(load=BUSY, is_idle=False), 1.0)
    found.want(make_wanted("other", claim_gib=4))
    carry_out(found, 2.0)
    assert not any(way.yielding or way.leaving for way in ways_of(found, 100.0, FleetPlan()).values())


def test_it_is_ready_with_as_many_as_it_must_have() -> None:
    found = fleet(make_wanted(replica=2, **FOLLOWS))
    first, _ = carry_out(found, 0.0)
    found.see_report(first, ready(), 1.0)
    assert status_of(found, found.wanted["m"]).state == M.READY
    assert scale_status(found, make_wanted()) is None
