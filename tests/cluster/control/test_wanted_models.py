from __future__ import annotations

import asyncio

import pytest

from cluster import errors
from cluster.catalog.entry import Source
from cluster.launch import Wanted
from cluster.routes import NameKind
from tests.cluster.control.scenes import (
    M,
    Scene,
    changes,
    play,
)
from tests.make import GIB, make_node, make_wanted


def test_a_launch_is_a_wish_that_outlives_whoever_made_it() -> None:
    async def scene(s: Scene) -> None:
        await s.launch(make_wanted())
        assert Wanted.model_validate(s.store.get("wish", "m")).uid == "m"
        await s.state(M.READY)

    play(scene)


def test_an_equal_launch_is_the_same_launch() -> None:
    async def scene(s: Scene) -> None:
        first = await s.launch(make_wanted(options={"steps": 2}))
        await s.state(M.READY)
        again = await s.launch(make_wanted(options={"steps": 2}))
        assert again.generation == first.generation
        await s.ticks()
        assert len(s.world.started) == 1

    play(scene)


@pytest.mark.parametrize("uid_given", [True, False])
def test_fifty_launches_at_once_are_one(uid_given: bool) -> None:
    async def scene(s: Scene) -> None:
        statuses = await asyncio.gather(*(s.launch(make_wanted(), uid_given) for _ in range(50)))
        assert {(status.uid, status.generation) for status in statuses} == {("m", 1)}
        await s.state(M.READY)
        await s.ticks()
        assert len(s.world.started) == 1

    play(scene)


def test_another_launch_under_the_same_uid_is_refused() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        with pytest.raises(errors.Conflict) as caught:
            await s.launch(make_wanted(replica=2, options={"steps": 4}))
        assert caught.value.message == (
            "Model uid m is taken by another launch (replica, steps differ); terminate it or choose another model_uid."
        )
        assert (await s.supervisor.status("m")).replica == 1

    play(scene)


@pytest.mark.parametrize("uid_given", [True, False])
def test_a_launch_that_failed_gives_its_name_to_the_next(uid_given: bool) -> None:
    async def scene(s: Scene) -> None:
        await s.launch(make_wanted(options={"weights": "bad"}))
        await s.state(M.FAILED)
        assert [(status.uid, status.state) for status in await s.supervisor.all_statuses()] == [("m", M.FAILED)]
        status = await s.launch(make_wanted(options={"steps": 4}), uid_given)
        assert (status.uid, status.generation) == ("m", 2)
        await s.state(M.READY)
        assert [status.uid for status in await s.supervisor.all_statuses()] == ["m"]

    play(scene)


def test_another_launch_that_did_not_ask_for_the_uid_gets_one() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        status = await s.launch(make_wanted(options={"steps": 4}), uid_given=False)
        assert status.uid == "m-s1"
        await s.state(M.READY, status.uid)
        assert len(s.world.alive("m")) == len(s.world.alive("m-s1")) == 1

    play(scene)


def test_what_does_not_fit_is_refused_and_leaves_nothing() -> None:
    async def scene(s: Scene) -> None:
        with pytest.raises(errors.DoesNotFit) as caught:
            await s.launch(make_wanted(claim_gib=99))
        assert "n0: 16.0 GiB of 16.0 GiB memory free, 99.0 GiB asked" in caught.value.message
        refused = await s.supervisor.could_launch(make_wanted(claim_gib=99))
        assert (refused.reason, refused.nodes) == (caught.value.message, ())
        assert (refused.needs.memory_bytes, refused.room_bytes) == (99 * GIB, 16 * GIB)
        fits = await s.supervisor.could_launch(make_wanted(replica=2))
        assert (fits.reason, fits.nodes, fits.needs.memory_bytes) == ("", ("n0", "n1"), GIB)
        await s.nothing_left()

    play(scene)


def test_a_dry_run_looks_for_the_folder_where_the_launch_would() -> None:
    async def scene(s: Scene) -> None:
        wanted = make_wanted(worker_ip="n1").model_copy(update={"source": Source(hub="local", id="/models/m")})
        with pytest.raises(errors.DownloadFailed, match="/models/m does not exist on n1"):
            await s.supervisor.could_launch(wanted)
        s.world.folders.add("/models/m")
        assert (await s.supervisor.could_launch(wanted)).reason == ""
        assert s.world.looks == [("n1", "/models/m")] * 2

    play(scene)


def test_what_is_on_the_disk_of_the_node_counts_and_not_what_the_ingress_has() -> None:
    """The ingress knew no weights and took the launch for small."""

    async def scene(s: Scene) -> None:
        asked = make_wanted(claim_gib=2)
        s.world.weights_on["n1"] = {"m": make_wanted(claim_gib=5)}
        assert (await s.supervisor.could_launch(asked, "n0")).needs.memory_bytes == 2 * GIB
        elsewhere = make_wanted(claim_gib=2, worker_ip="n1")
        s.world.weights_on["n1"] = {"m": make_wanted(claim_gib=5, worker_ip="n1")}
        assert (await s.supervisor.could_launch(elsewhere, "n0")).needs.memory_bytes == 5 * GIB
        status = await s.supervisor.launch(elsewhere, True, "n0")
        assert status.wanted.claim_bytes == 5 * GIB
        assert [worker.claim_bytes for worker in (await s.state(M.READY)).workers] == [5 * GIB]

    play(scene)


def test_each_smaller_launch_is_told_whether_it_would_fit() -> None:
    async def scene(s: Scene) -> None:
        variants = [make_wanted(claim_gib=size) for size in (20, 3)]
        fits = await s.supervisor.would_fit(variants)
        assert [bool(fit.reason) for fit in fits] == [True, False]
        assert fits[1].needs.memory_bytes == 3 * GIB

    play(scene)


def test_launches_at_once_do_not_count_on_the_same_room() -> None:
    async def scene(s: Scene) -> None:
        asked = [make_wanted(f"m{n}", claim_gib=10) for n in range(4)]
        found = await asyncio.gather(*map(s.launch, asked), return_exceptions=True)
        assert sum(isinstance(one, errors.DoesNotFit) for one in found) == 2

    play(scene)


def test_a_failed_launch_says_why_and_its_process_is_ended() -> None:
    async def scene(s: Scene) -> None:
        await s.launch(make_wanted(options={"weights": "bad"}))
        status = await s.state(M.FAILED)
        assert (status.reason, status.error_code) == ("m could not be loaded: bad weights", "load_failed")
        assert status.log_tail == ("reading weights", "no")
        assert await s.supervisor.logs("m", 1) == ["no"]
        await s.ticks()
        assert s.world.alive() == [] and len(s.world.started) == 1

    play(scene)


def test_launching_a_failed_model_again_tries_again() -> None:
    async def scene(s: Scene) -> None:
        wanted = make_wanted(options={"weights": "bad"})
        await s.launch(wanted)
        await s.state(M.FAILED)
        s.world.load_errors.clear()
        assert (await s.launch(wanted)).generation == 2
        await s.state(M.READY)
        assert s.world.the().name.generation == 2

    play(scene)


def test_weights_that_can_be_had_later_are_tried_again() -> None:
    async def scene(s: Scene) -> None:
        s.world.load_errors["bad"] = errors.DownloadFailed("The hub cannot be reached.")
        await s.launch(make_wanted(options={"weights": "bad"}))
        await s.state(M.FAILED)
        s.world.load_errors.clear()
        s.world.clock_ahead += 61
        await s.until(lambda: s.supervisor._fleet.losses)
        s.world.clock_ahead += 2
        await s.state(M.READY)

    play(scene)


def test_scaling_up_leaves_the_workers_there_are() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        first = s.world.the()
        assert (await s.supervisor.scale("m", 3)).replica == 3
        await s.until(lambda: len(s.world.alive()) == 3)
        status = await s.state(M.READY)
        assert (status.generation, status.ready, first.alive) == (1, 3, True)

    play(scene)


def test_scaling_down_drains_the_highest_replicas() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=3))
        await s.supervisor.scale("m", 1)
        await s.until(lambda: len(s.supervisor._fleet.workers) == 1)
        assert s.world.the().name.index == 0

    play(scene)


@pytest.mark.parametrize("replica", [0, -1])
def test_scaling_to_none_is_refused(replica: int) -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        with pytest.raises(errors.BadOption, match="terminate m"):
            await s.supervisor.scale("m", replica)

    play(scene)


def test_scaling_beyond_the_room_is_refused_and_changes_nothing() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(claim_gib=10))
        with pytest.raises(errors.DoesNotFit):
            await s.supervisor.scale("m", 3)
        assert (await s.supervisor.status("m")).replica == 1
        assert (await s.state(M.READY)).ready == 1

    play(scene)


def test_what_is_pinned_to_cards_is_not_scaled() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(n_gpu=1, gpu_idx=[0]))
        with pytest.raises(errors.BadRequest, match="pinned"):
            await s.supervisor.scale("m", 2)

    play(scene, make_node(gpus=2))


def test_a_declared_list_becomes_what_is_wished() -> None:
    async def scene(s: Scene) -> None:
        declared = [make_wanted("a"), make_wanted("b", replica=2), make_wanted("c")]
        assert changes(await s.supervisor.apply(declared, prune=True, dry_run=False)) == {
            **{"a": "launch", "b": "launch", "c": "launch"}
        }
        for uid in "abc":
            await s.state(M.READY, uid)
        declared = [make_wanted("a"), make_wanted("b", replica=1), make_wanted("d"), make_wanted("c", envs={"A": "1"})]
        found = await s.supervisor.apply(declared, prune=True, dry_run=False)
        assert changes(found) == {"a": "same", "b": "scale", "c": "update", "d": "launch"}
        assert {change.uid: change.fields for change in found if change.fields} == {"b": ("replica",), "c": ("envs",)}
        await s.until(lambda: len(s.world.alive("b")) == 1 and [p.name.generation for p in s.world.alive("c")] > [3])
        for uid in "abcd":
            await s.state(M.READY, uid)

    play(scene)


def test_other_names_come_without_other_workers() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        before = s.world.alive("m")
        found = await s.supervisor.apply([make_wanted(aliases="org/m")], prune=True, dry_run=False)
        assert changes(found) == {"m": "rename"}
        await s.ticks()
        model = (await s.supervisor.watch(-1, 0)).models["m"]
        assert [name.text for name in model.names if name.kind == NameKind.ALIAS] == ["org/m"]
        assert s.world.alive("m") == before

    play(scene)


def test_an_alias_that_is_another_models_uid_is_refused() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        with pytest.raises(errors.Conflict, match="Alias m is the uid of another model"):
            await s.launch(make_wanted("n", aliases="m"))
        await s.launch(make_wanted("n", aliases="n,o"))

    play(scene)


def test_a_dry_run_changes_nothing() -> None:
    async def scene(s: Scene) -> None:
        await s.supervisor.apply([make_wanted("a")], prune=True, dry_run=False)
        await s.state(M.READY, "a")
        found = await s.supervisor.apply([make_wanted("b")], prune=True, dry_run=True)
        assert changes(found) == {"a": "terminate", "b": "launch"}
        await s.ticks()
        assert [status.uid for status in await s.supervisor.all_statuses()] == ["a"]

    play(scene)


def test_only_what_an_earlier_list_declared_is_pruned() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("by-hand"))
        await s.supervisor.apply([make_wanted("declared")], prune=True, dry_run=False)
        await s.state(M.READY, "declared")
        assert changes(await s.supervisor.apply([], prune=False, dry_run=False)) == {}
        assert changes(await s.supervisor.apply([], prune=True, dry_run=False)) == {"declared": "terminate"}
        await s.until(lambda: not s.world.alive("declared"))
        assert [status.uid for status in await s.supervisor.all_statuses()] == ["by-hand"]

    play(scene)


def test_what_ran_already_when_it_was_declared_is_declared_from_then_on() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        assert changes(await s.supervisor.apply([make_wanted()], prune=True, dry_run=False)) == {"m": "same"}
        assert changes(await s.supervisor.apply([], prune=True, dry_run=False)) == {"m": "terminate"}

    play(scene)


def test_terminate_forgets_what_was_ready() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        await s.until(lambda: s.store.get("ready", "m"))
        await s.supervisor.terminate("m")
        assert s.store.all("ready") == {}
        await s.nothing_left()
        s.world.loads = False
        await s.launch(make_wanted())
        await s.replace_supervisor()
        assert not (await s.supervisor.watch(-1, 0)).models["m"].recovering

    play(scene)
