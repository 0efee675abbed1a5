from __future__ import annotations

from dataclasses import replace

import pytest

from cluster import errors
from cluster.control.held import Taken
from cluster.control.making_room import FAIR_S, LEAST_S, Guest, by_node, who_gives_way
from cluster.control.placement import Demand
from cluster.control.room import Room
from cluster.launch import ReplicaPlace
from cluster.status import Claim
from tests.cluster.control.scenes import M, Scene, play
from tests.make import make_node, make_wanted

GIB = 2**30


def room_of(memory_gib: float, **claims_gib: float) -> tuple[Room, dict[str, Claim]]:
    claims = {uid: Claim(memory_bytes=int(gib * GIB)) for uid, gib in claims_gib.items()}
    taken = [Taken(uid, "n0", claim) for uid, claim in claims.items()]
    return Room.beside([make_node(memory_gib=memory_gib)], taken), claims


def chosen(needs_gib: float, memory_gib: float, costs: dict[str, float], **claims_gib: float) -> list[str]:
    room, claims = room_of(memory_gib, **claims_gib)
    guests = [Guest(uid, (("n0", claim),), costs[uid]) for uid, claim in claims.items() if uid in costs]
    leaving, node = who_gives_way(Demand("new", int(needs_gib * GIB)), room, by_node(guests), ())
    assert node == ("n0" if leaving else "")
    return sorted(guest.uid for guest in leaving)


def test_the_cheapest_that_is_enough_gives_way() -> None:
    assert chosen(0.6, 1, {"a": 2.0, "b": 1.0}, a=0.4, b=0.4) == ["b"]
    assert chosen(1, 1, {"a": 2.0, "b": 1.0}, a=0.4, b=0.4) == ["a", "b"]
    # One that is dear goes alone where two cheap ones would cost more, and stays where they cost less.
    costs = {"large": 3.0, "s1": 1.0, "s2": 1.0}
    assert chosen(2, 4, costs, large=2, s1=1, s2=1) == ["s1", "s2"]
    assert chosen(2, 4, {**costs, "large": 1.5}, large=2, s1=1, s2=1) == ["large"]
    # Whoever turns out not to be needed stays.
    assert chosen(2, 3, {"small": 0.1, "large": 5.0}, small=1, large=2) == ["large"]


def test_nobody_gives_way_where_that_is_not_enough() -> None:
    assert chosen(3, 2, {"a": 1.0}, a=1) == []
    assert chosen(2, 2, {"a": 1.0}, a=1, pinned=1) == []
    assert chosen(2, 2, {}, a=1) == []


def test_nobody_gives_way_where_nobody_knows_yet_what_others_have_of_the_cards() -> None:
    node = make_node("n0", gpus=1, card_gib=10)
    taken = Taken("a", "n0", Claim(0, ((0, 0.6),), 0.0, 6 * GIB))
    guests = by_node([Guest("a", (("n0", taken.claim),), 1.0)])
    asked = Demand("new", GIB, ReplicaPlace(n_gpu=1))
    for is_unread, expected in [(False, "n0"), (True, "")]:
        room = Room.beside([replace(node, is_unread=is_unread)], [taken])
        assert who_gives_way(asked, room, guests, ())[1] == expected


SMALL = make_node("n0", memory_gib=1)


async def idle_for(s: Scene, seconds: float) -> None:
    s.world.clock_ahead += seconds
    await s.ticks()


def test_a_launch_sends_the_cheaper_one_to_sleep_and_that_comes_back_when_it_is_asked_for() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("a", claim_gib=0.4), make_wanted("b", claim_gib=0.4))
        s.world.the("a").use()
        await s.until(lambda: "a" not in s.supervisor._fleet.resting.idle)
        s.world.the("a").tell(is_idle=True)
        await s.until(lambda: "a" in s.supervisor._fleet.resting.idle)
        fit = await s.supervisor.could_launch(make_wanted("c", claim_gib=0.6))
        assert (fit.reason, fit.gives_way) == ("", ("b",))
        await s.launch(make_wanted("c", claim_gib=0.6))
        # They have only just been loaded.
        assert (await s.state(M.WAITING, "c")).reason == "waits until other models may give way"
        await idle_for(s, LEAST_S)
        await s.state(M.READY, "c")
        assert (await s.state(M.ASLEEP, "b")).reason.startswith("gave way to another model; the next request wakes it")
        assert (await s.supervisor.status("a")).state == M.READY
        await s.supervisor.wake("b")
        await idle_for(s, LEAST_S)
        await s.state(M.READY, "b")
        assert {(await s.supervisor.status(uid)).state for uid in ("a", "c")} == {M.READY, M.ASLEEP}

    play(scene, SMALL)


def test_neither_pinned_nor_used_ones_give_way_to_a_launch() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("a", claim_gib=0.4, pinned=True), make_wanted("b", claim_gib=0.4))
        s.world.the("b").use()
        await s.until(lambda: "b" not in s.supervisor._fleet.resting.idle)
        with pytest.raises(errors.DoesNotFit, match="c fits on no node"):
            await s.launch(make_wanted("c", claim_gib=0.6))

    play(scene, SMALL)


def test_where_it_is_not_wanted_nobody_gives_way() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("a", claim_gib=0.8))
        with pytest.raises(errors.DoesNotFit):
            await s.launch(make_wanted("b", claim_gib=0.8))

    play(scene, SMALL, make_room=False)


def test_whoever_waits_long_for_a_model_comes_before_those_who_use_another() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("a", claim_gib=0.8))
        await s.launch(make_wanted("b", claim_gib=0.8, asleep=True))
        a = s.world.the("a")
        a.use()
        await s.until(lambda: "a" not in s.supervisor._fleet.resting.idle)
        await s.supervisor.wake("b")
        await idle_for(s, LEAST_S)
        assert (await s.state(M.WAITING, "b")).reason == "waits until other models may give way"
        assert (await s.supervisor.watch(-1, 0)).models["b"].waking
        a.in_hand = 1
        await idle_for(s, FAIR_S)
        assert (await s.state(M.WAITING, "b")).reason == "waits for workers that leave"
        assert a.alive, "it finishes what it has"
        a.finish()
        await s.state(M.READY, "b")

    play(scene, SMALL)


def test_a_request_for_one_that_nobody_can_make_room_for_does_not_wait() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("a", claim_gib=0.8, pinned=True))
        await s.launch(make_wanted("b", claim_gib=0.8, asleep=True))
        await s.supervisor.wake("b")
        assert "fits on no node" in (await s.state(M.WAITING, "b")).reason
        assert not (await s.supervisor.watch(-1, 0)).models["b"].waking

    play(scene, SMALL)


def test_a_request_waits_while_the_one_in_its_room_still_loads() -> None:
    async def scene(s: Scene) -> None:
        for uid in ("a", "b"):
            await s.launch(make_wanted(uid, claim_gib=0.8, asleep=True))
        s.world.loads = False
        await s.supervisor.wake("a")
        await s.until(lambda: s.world.alive("a") and "start" in s.world.the("a").commands)
        await s.supervisor.wake("b")
        assert (await s.state(M.WAITING, "b")).reason == "waits until other models may give way"
        assert (await s.supervisor.watch(-1, 0)).models["b"].waking
        s.world.the("a").load()
        s.world.loads = True
        await s.state(M.READY, "a")
        await idle_for(s, LEAST_S)
        await s.state(M.READY, "b")

    play(scene, SMALL)


def test_two_that_want_the_same_room_get_it_one_after_the_other() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("a", claim_gib=0.8))
        for uid in ("b", "c"):
            await s.launch(make_wanted(uid, claim_gib=0.8, asleep=True))
        a = s.world.the("a")
        a.in_hand = 1
        await s.supervisor.wake("b")
        await s.supervisor.wake("c")
        await idle_for(s, LEAST_S)
        assert (await s.state(M.WAITING, "b")).reason == "waits for workers that leave"
        assert (await s.state(M.WAITING, "c")).reason == "waits for its turn: workers leave for another model"
        assert (await s.supervisor.watch(-1, 0)).models["c"].waking
        a.finish()
        await s.state(M.READY, "b")
        started = len(s.world.started)
        await s.ticks()
        assert len(s.world.started) == started and (await s.supervisor.status("c")).state == M.WAITING
        await idle_for(s, LEAST_S)
        await s.state(M.READY, "c")
        # Only the events of the cluster name both: who may ask for one may not know of the other.
        assert [text for text in await s.events("") if "gave way" in text] == ["a gave way to b", "b gave way to c"]
        for uid in "abc":
            texts = [text for text in await s.events(uid) if "gave way" in text]
            assert texts == ["Goes to sleep: gave way to another model"] * (uid != "c")

    play(scene, SMALL)
