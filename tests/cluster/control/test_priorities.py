from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cluster import errors
from cluster.control.making_room import LEAST_S
from cluster.launch import LaunchSpec, priority_text
from tests.cluster.control.scenes import M, Scene, changes, play
from tests.make import make_node, make_wanted

SMALL = make_node("n0", memory_gib=1)


@pytest.mark.parametrize(("text", "rank"), [("low", -100), ("High", 100), ("normal", 0), ("7", 7), (-3, -3), (None, 0)])
def test_priorities_have_names_and_numbers(text: Any, rank: int) -> None:
    fields = {"model_name": "m"} if text is None else {"model_name": "m", "priority": text}
    spec = LaunchSpec.model_validate(fields)
    assert spec.rank == rank and LaunchSpec.model_validate(spec.model_dump(mode="json")) == spec
    assert [priority_text(each) for each in (-100, 0, 100, 7)] == ["low", "normal", "high", "7"]


@pytest.mark.parametrize("text", ["urgent", 0.5, True, []])
def test_anything_else_is_no_priority(text: Any) -> None:
    with pytest.raises(ValueError, match="priority takes low, normal, high or a whole number"):
        LaunchSpec.model_validate({"model_name": "m", "priority": text})


@pytest.mark.parametrize("text", [1001, "-1001"])
def test_priorities_have_bounds(text: Any) -> None:
    with pytest.raises(ValueError, match="priority"):
        LaunchSpec.model_validate({"model_name": "m", "priority": text})


async def used(s: Scene, uid: str) -> None:
    s.world.the(uid).use()
    await s.until(lambda: uid not in s.supervisor._fleet.resting.idle)


def test_a_higher_priority_takes_the_room_of_one_in_use_at_once_and_lets_it_finish() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("a", claim_gib=0.8, priority="low"))
        await used(s, "a")
        a = s.world.the("a")
        a.in_hand = 1
        fit = await s.supervisor.could_launch(make_wanted("b", claim_gib=0.8, priority="high"))
        assert (fit.reason, fit.gives_way) == ("", ("a",))
        await s.launch(make_wanted("b", claim_gib=0.8, priority="high"))
        await s.until(lambda: "drain" in a.commands or "doze" in a.commands)
        assert a.alive and not s.world.alive("b"), "it finishes what it has"
        a.finish()
        await s.state(M.READY, "b")
        text = "a gave way to b, whose priority is high and not low, though it was in use"
        assert [event for event in await s.events("") if "gave way" in event] == [text]
        # Its requests wake it, and are held: nobody else is there to give way.
        await s.supervisor.wake("a")
        await s.until(lambda: s.supervisor._fleet.waiting.get("a"))
        assert (await s.state(M.WAITING, "a")).reason == "waits until models of a higher priority rest"
        assert (await s.supervisor.watch(-1, 0)).models["a"].waking
        s.world.clock_ahead += 1000
        await s.ticks()
        assert (await s.supervisor.status("b")).state == M.READY
        await s.supervisor.sleep("b")
        await s.state(M.READY, "a")

    play(scene, SMALL)


def test_callers_who_wake_it_at_once_do_not_keep_a_lower_one_from_going() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("a", claim_gib=0.8, priority="low"))
        await used(s, "a")
        a = s.world.the("a")
        a.in_hand = 1
        await s.launch(make_wanted("b", claim_gib=0.8, priority="high"))
        # As an ingress does that reads of it: as fast as it can.
        async with asyncio.timeout(5):
            while "drain" not in a.commands:
                await s.supervisor.wake("a")
                await asyncio.sleep(0)
        a.finish()
        await s.state(M.READY, "b")
        assert (await s.supervisor.status("a")).state == M.WAITING

    play(scene, SMALL)


def test_one_that_nobody_uses_goes_before_one_in_use_whose_priority_is_lower() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(
            make_wanted("low", claim_gib=0.4, priority="low"), make_wanted("idle", claim_gib=0.4, priority="normal")
        )
        await used(s, "low")
        s.world.clock_ahead += LEAST_S
        await s.launch(make_wanted("new", claim_gib=0.4, priority="normal"))
        await s.state(M.READY, "new")
        assert (await s.supervisor.status("idle")).state == M.ASLEEP
        assert (await s.supervisor.status("low")).state == M.READY

    play(scene, SMALL)


def test_of_those_that_nobody_uses_the_lower_priority_goes_first_whatever_it_costs() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(
            make_wanted("low", claim_gib=0.4, priority="low"), make_wanted("idle", claim_gib=0.4, priority="normal")
        )
        for _ in range(3):
            await used(s, "low")
            s.world.the("low").tell(is_idle=True)
            await s.until(lambda: "low" in s.supervisor._fleet.resting.idle)
        s.world.clock_ahead += LEAST_S
        await s.launch(make_wanted("new", claim_gib=0.4))
        await s.state(M.READY, "new")
        assert (await s.supervisor.status("low")).state == M.ASLEEP

    play(scene, SMALL)


@pytest.mark.parametrize("priority", ["low", "normal"])
def test_nobody_gives_way_to_a_lower_priority_and_one_in_use_not_to_an_equal_one(priority: str) -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("a", claim_gib=0.8, priority="normal"))
        if priority == "normal":
            await used(s, "a")
        s.world.clock_ahead += 1000
        await s.ticks()
        with pytest.raises(errors.DoesNotFit, match="b fits on no node"):
            await s.launch(make_wanted("b", claim_gib=0.8, priority=priority))
        assert (await s.supervisor.status("a")).state == M.READY

    play(scene, SMALL)


def test_pinned_ones_stay_whatever_their_priority() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("a", claim_gib=0.8, priority="low", pinned=True))
        with pytest.raises(errors.DoesNotFit):
            await s.launch(make_wanted("b", claim_gib=0.8, priority="high"))

    play(scene, SMALL)


def test_whoever_has_the_higher_priority_is_served_first_of_those_that_wait() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("a", claim_gib=0.8, priority="low"))
        a = s.world.the("a")
        a.in_hand = 1
        for uid, priority in (("b", "normal"), ("c", "high")):
            await s.launch(make_wanted(uid, claim_gib=0.8, asleep=True, priority=priority))
            await s.supervisor.wake(uid)
        await s.until(lambda: {"b", "c"} <= s.supervisor._fleet.waiting.keys())
        a.finish()
        await s.state(M.READY, "c")
        assert not [name for name in s.world.started if name.startswith("worker:b:")]

    play(scene, SMALL)


def test_a_priority_changes_without_other_workers() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        made = await s.supervisor.apply([make_wanted(priority="high")], prune=False, dry_run=False)
        assert changes(made) == {"m": "adjust"} and len(s.world.started) == 1

    play(scene, SMALL)
