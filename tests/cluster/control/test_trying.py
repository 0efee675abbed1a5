from __future__ import annotations

from cluster import errors
from cluster.launch import Wanted
from cluster.status import ModelStatus
from cluster.tally import CanaryTally, Counting, Tally
from tests.cluster.control.scenes import M, S, Scene, changes, play
from tests.make import make_node, make_wanted

#: For a scene: a minute passes in an instant there.
QUICK = {"canary_s": 0.1, "canary_requests": 20}


def new(**fields: object) -> Wanted:
    return make_wanted(**{"options": {"steps": 2}, "canary": 10, **fields})


def tally(requests: int, faults: int = 0, seconds: float = 0.02) -> Tally:
    counting = Counting()
    for _ in range(requests - faults):
        counting.answered(seconds)
    for _ in range(faults):
        counting.failed()
    return counting.so_far


async def declare(s: Scene, *wanted: Wanted) -> ModelStatus:
    await s.supervisor.apply(wanted, prune=False, dry_run=False)
    return await s.supervisor.status("m")


async def on_trial(s: Scene, old: Wanted | None = None, **fields: object) -> ModelStatus:
    """The new version serves beside the old one."""
    await s.ready(old or make_wanted(replica=2))
    status = await declare(s, new(**{"replica": 2, **fields}))
    await s.until(lambda: model(s).canary)
    return status


def model(s: Scene, uid: str = "m"):  # type: ignore[no-untyped-def]
    return s.supervisor._publisher.snapshots.value.models[uid]


def generations(s: Scene) -> list[int]:
    return sorted(process.name.generation for process in s.world.alive())


async def count(s: Scene, canary: Tally, stable: Tally) -> None:
    generation = (await s.supervisor.status("m")).generation
    await s.supervisor.tallied("i", [CanaryTally("m", generation, canary, stable)])


def test_one_worker_of_the_new_version_serves_beside_the_old_one() -> None:
    async def scene(s: Scene) -> None:
        status = await on_trial(s)
        assert (status.state, status.canary.percent, status.canary.old_generation) == (M.READY, 10, 1)
        (canary,) = model(s).canary
        assert model(s).canary_share == 0.1 and canary in {route.worker for route in model(s).workers}
        await s.ticks(5)
        assert generations(s) == [1, 1, 2]
        status = await s.supervisor.status("m")
        assert (status.state, status.ready, status.replica, status.generation) == (M.READY, 2, 2, 2)
        assert "0 requests, 0 failed, of the old version 0 requests, 0 failed; it is judged after" in status.canary.why
        await count(s, tally(4), tally(9, 1))
        await s.ticks(2)
        status = await s.supervisor.status("m")
        assert (status.canary.new.requests, status.canary.old.failed) == (4, 1)
        assert "generation 1 comes back if more" in status.canary.next
        assert "Update model: declared, with 10 % of the requests at first" in await s.events()

    play(scene)


def test_one_that_serves_as_well_takes_the_place_of_the_old_one() -> None:
    async def scene(s: Scene) -> None:
        await on_trial(s)
        await count(s, tally(20), tally(200))
        await s.until(lambda: generations(s) == [2, 2])
        status = await s.supervisor.status("m")
        assert (status.state, status.ready, status.canary) == (M.READY, 2, None)
        assert not model(s).canary and not model(s).canary_share
        (event,) = [text for text in await s.events() if "takes the place" in text]
        assert "20 requests, 0 failed, median 2" in event
        await s.until(lambda: s.store.all("canary") == {})

    play(scene, **QUICK)


def test_one_that_fails_more_goes_by_itself_and_the_old_one_has_never_stopped() -> None:
    async def scene(s: Scene) -> None:
        await on_trial(s)
        old = {str(process.name) for process in s.world.alive() if process.name.generation == 1}
        await count(s, tally(4, 3), tally(40))
        await s.until(lambda: generations(s) == [1, 1])
        assert {str(process.name) for process in s.world.alive()} == old
        status = await s.supervisor.status("m")
        assert (status.state, status.generation, status.canary) == (M.READY, 1, None)
        assert status.wanted.spec.options == {} and status.wanted.declared
        (event,) = [event for event in await s.supervisor.events("m") if "given up" in event.text]
        assert event.level == "ERROR"
        assert event.text == (
            "The canary (generation 2) is given up for generation 1: 3 of 4 requests failed, of the old version 0 of 40"
        )
        await s.replace_supervisor()
        await s.state(M.READY)
        await s.ticks()
        assert generations(s) == [1, 1] and not model(s).canary

    play(scene)


def test_one_worker_on_trial_does_not_make_it_the_version_to_return_to() -> None:
    async def scene(s: Scene) -> None:
        await on_trial(s, make_wanted(), replica=1)
        await s.ticks()
        assert s.store.all("ready")["m"]["generation"] == 1
        await count(s, tally(2, 2), tally(20))
        await s.until(lambda: generations(s) == [1])

    play(scene)


def test_one_that_is_slower_goes_as_well() -> None:
    async def scene(s: Scene) -> None:
        await on_trial(s)
        await count(s, tally(40, seconds=0.2), tally(400))
        await s.until(lambda: generations(s) == [1, 1])
        assert [text for text in await s.events() if "its median is" in text]

    play(scene)


def test_one_that_cannot_be_loaded_goes_at_once() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=2))
        await declare(s, new(replica=2, options={"weights": "bad"}))
        await s.until(lambda: s.supervisor._fleet.wanted["m"].generation == 1)
        await s.until(lambda: generations(s) == [1, 1])
        assert [text for text in await s.events() if "given up for generation 1: m could not be loaded" in text]

    play(scene)


def test_one_whose_worker_is_lost_again_and_again_goes_too() -> None:
    async def scene(s: Scene) -> None:
        await on_trial(s)
        for _ in range(3):
            canary = await s.until(lambda: [p for p in s.world.alive() if p.name.generation == 2])
            canary[0].kill()
            await s.until(lambda: not [p for p in s.world.alive() if p.name.generation == 2])
            s.world.clock_ahead += 60
        await s.until(lambda: s.supervisor._fleet.wanted["m"].generation == 1)
        assert [text for text in await s.events() if "its worker was lost 3 times" in text]

    play(scene)


def test_the_next_supervisor_goes_on_with_the_trial() -> None:
    async def scene(s: Scene) -> None:
        await on_trial(s)
        await s.replace_supervisor()
        await s.until(lambda: s.supervisor._publisher.snapshots.value.models and model(s).canary)
        await s.ticks()
        assert generations(s) == [1, 1, 2]
        await count(s, tally(2, 2), tally(20))
        await s.until(lambda: generations(s) == [1, 1])

    play(scene)


def test_old_workers_that_die_are_replaced_by_old_ones() -> None:
    async def scene(s: Scene) -> None:
        await on_trial(s)
        s.world.alive()[0].kill()
        await s.until(lambda: len(s.world.alive()) == 2)
        s.world.clock_ahead += 60
        await s.until(lambda: generations(s) == [1, 1, 2])

    play(scene)


def test_what_people_change_meanwhile_holds_for_both_versions() -> None:
    async def scene(s: Scene) -> None:
        await on_trial(s)
        assert (await s.supervisor.scale("m", 3)).replica == 3
        await s.until(lambda: generations(s) == [1, 1, 1, 2])
        assert changes(await s.supervisor.apply([new(replica=3, aliases="other")], prune=False, dry_run=False)) == {
            "m": "rename"
        }
        await count(s, tally(2, 2), tally(20))
        await s.until(lambda: generations(s) == [1, 1, 1])
        spec = (await s.supervisor.status("m")).wanted.spec
        assert (spec.replica, [alias.name for alias in spec.aliases], spec.options) == (3, ["other"], {})

    play(scene)


def test_people_may_end_it_either_way_by_what_they_declare() -> None:
    async def back(s: Scene) -> None:
        await on_trial(s)
        await declare(s, make_wanted(replica=2))
        await s.until(lambda: generations(s) == [1, 1])
        assert (await s.supervisor.status("m")).generation == 1

    async def forth(s: Scene) -> None:
        await on_trial(s)
        await declare(s, new(replica=2, canary=0))
        await s.until(lambda: generations(s) == [2, 2])

    async def another(s: Scene) -> None:
        await on_trial(s)
        status = await declare(s, new(replica=2, options={"steps": 3}))
        assert (status.canary.generation, status.canary.old_generation) == (3, 1)
        await s.until(lambda: generations(s) == [1, 1, 3])

    for scene in (back, forth, another):
        play(scene)


def test_without_an_old_version_that_serves_there_is_nothing_to_try() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(new())
        assert (await s.supervisor.status("m")).canary is None

    play(scene)


def test_a_canary_without_room_waits_and_drives_no_old_worker_away() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(claim_gib=12))
        status = await declare(s, new(claim_gib=12))
        await s.ticks(5)
        status = await s.supervisor.status("m")
        assert generations(s) == [1] and status.state == M.READY and status.error_code == ""
        assert "fits on no node" in status.canary.why

    play(scene, make_node("n0"))


def test_one_that_sleeps_wakes_with_its_old_version_first() -> None:
    async def scene(s: Scene) -> None:
        await on_trial(s)
        await s.supervisor.sleep("m")
        await s.until(lambda: not s.world.alive())
        s.world.loads = False
        await s.supervisor.wake("m")
        await s.until(lambda: len(s.world.alive()) == 2)
        await s.ticks()
        assert generations(s) == [1, 1]
        for process in s.world.alive():
            await s.until(lambda p=process: p.board.value.phase == "loading")  # type: ignore[misc]
            process.load()
        await s.until(lambda: generations(s) == [1, 1, 2])

    play(scene)


def test_a_terminated_model_leaves_no_trial_behind() -> None:
    async def scene(s: Scene) -> None:
        await on_trial(s)
        await s.supervisor.terminate("m")
        await s.nothing_left()
        assert s.store.all("canary") == {}
        assert not s.supervisor._fleet.canaries.on_trial

    play(scene)


def test_the_old_version_comes_back_also_where_that_cannot_be_written() -> None:
    async def scene(s: Scene) -> None:
        await on_trial(s)
        put_all = s.store.put_all

        def full(rows: object) -> None:
            raise errors.OutOfSpace("The disk is full.")

        s.store.put_all = full  # type: ignore[method-assign]
        await count(s, tally(2, 2), tally(20))
        await s.until(lambda: generations(s) == [1, 1])
        s.store.put_all = put_all  # type: ignore[method-assign]
        await s.until(lambda: s.store.all("wish")["m"]["generation"] == 1)

    play(scene)


def test_a_suspect_of_the_old_version_is_no_reason_to_start_a_canary() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        s.world.the().computes = False
        await s.until(lambda: [w for w in s.supervisor._fleet.workers.values() if w.state == S.SUSPECT])
        await declare(s, new())
        await s.ticks()
        assert generations(s) == [1]
        s.world.the().computes = True
        await s.until(lambda: generations(s) == [1, 2])

    play(scene)
