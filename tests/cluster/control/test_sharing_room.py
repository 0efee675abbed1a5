"""Far more models than there is room for, asked for at random: how often is one awake when it is asked for?"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from cluster.control.fleet import Fleet
from cluster.control.lifecycle import WorkerEvent
from cluster.control.making_room import FAIR_S, tell_ways, ways_of
from cluster.control.sleeping import end_dozing, let_doze, put_to_sleep, wake
from cluster.control.views import model_routes_of
from cluster.settings import Settings
from cluster.status import Report, WorkerState
from tests.make import make_node, make_wanted

MODELS, ROOM = 50, 8
LOAD_S, ROUSE_S, STEP_S, QUIET_S = 1.0, 0.25, 0.5, 1.0
GIB = 2**30


class Node:
    """One node with room for eight models of equal size. Its workers load in a second, and sooner when they dozed."""

    def __init__(self, dozing_bytes: int = GIB, room: float = ROOM) -> None:
        """`dozing_bytes`: what a model takes while it dozes."""
        self.dozing_bytes = dozing_bytes
        self.room = room
        suffixes = map(str, itertools.count())
        self.fleet = Fleet(Settings(memory_fraction=1.0), lambda: next(suffixes))
        self.now = 0.0
        self.fleet.see_nodes([make_node("n0", memory_gib=room)], self.now)
        for number in range(MODELS):
            self.fleet.want(make_wanted(f"m{number}"))
            put_to_sleep(self.fleet, f"m{number}", "not used yet")
            self.fleet.resting.dozing_bytes[f"m{number}"] = dozing_bytes
        self.used_at: dict[str, float] = {}
        self.switches = self.roused = 0
        #: Models whose callers would have been told at some moment that there is no room.
        self.refused: list[str] = []

    def step(self) -> None:
        self.now += STEP_S
        for name, worker in list(self.fleet.workers.items()):
            load_s = ROUSE_S if worker.report.loads else LOAD_S
            if worker.state == WorkerState.STARTING and self.now - worker.since >= load_s:
                loads, spells = worker.report.loads + 1, worker.report.spells + 1
                ready = Report("ready", node_id="n0", load_seconds=load_s, is_idle=False, spells=spells, loads=loads)
                self.fleet.see_report(name, ready, self.now)
                self.used_at[worker.name.uid] = self.now
            elif worker.state == WorkerState.READY:
                is_idle = self.now - self.used_at[worker.name.uid] >= QUIET_S
                self._report(worker.name.uid, is_idle, worker.report.spells)
            elif worker.state == WorkerState.NODDING:
                dozing = replace(worker.report, phase="dozing", memory_bytes=self.dozing_bytes)
                self.fleet.see_report(name, dozing, self.now)
        plan = self.fleet.plan(self.now)
        ways = ways_of(self.fleet, self.now, plan)
        tell_ways(self.fleet, ways)
        self.refused += [uid for uid in self.fleet.resting.woken if not self._is_held(uid)]
        for way in ways.values():
            for leaving in way.leaving:
                put_to_sleep(self.fleet, leaving, "gave way")
                self.switches += 1
            for uid in way.dozing:
                assert let_doze(self.fleet, uid, "gave way")
                self.switches += 1
            for ending in way.ending:
                end_dozing(self.fleet, ending, plan)
        for worker in plan.doze:
            self.fleet.see(str(worker), WorkerEvent.DOZE, self.now)
        for worker in plan.rouse:
            self.fleet.see(str(worker), WorkerEvent.ROUSE, self.now)
            self.roused += 1
        for start in plan.start:
            self.fleet.started(start.name, start.placement, self.now)
        for worker in plan.drain:
            if self.fleet.see(str(worker), WorkerEvent.DRAIN, self.now).state == WorkerState.DRAINING:
                self.fleet.see(str(worker), WorkerEvent.DRAINED, self.now)
        for worker in plan.forget:
            del self.fleet.workers[str(worker)]
        held = self.fleet.workers.held.get("n0")
        assert held is None or held.memory_bytes <= self.room * GIB

    def _report(self, uid: str, is_idle: bool, spells: int) -> None:
        (worker,) = [worker for worker in self.fleet.of(uid) if worker.state == WorkerState.READY]
        report = replace(worker.report, is_idle=is_idle, spells=spells)
        self.fleet.see_report(str(worker), report, self.now)

    def _is_held(self, uid: str) -> bool:
        return model_routes_of(self.fleet, self.fleet.wanted[uid]).waking

    def ask(self, uid: str) -> bool:
        """Whether it was awake."""
        ready = [worker for worker in self.fleet.of(uid) if worker.state == WorkerState.READY]
        wake(self.fleet, uid, self.now)
        if not ready:
            return False
        report = ready[0].report
        self.used_at[uid] = self.now
        self._report(uid, False, report.spells + report.is_idle)
        return True


def best_possible(asked: Sequence[str]) -> int:
    """Hits of whoever knows the future: gives way what is asked for last."""
    awake: set[str] = set()
    hits = 0
    for place, uid in enumerate(asked):
        if uid in awake:
            hits += 1
            continue
        if len(awake) == ROOM:
            later = asked[place + 1 :]
            awake.remove(max(awake, key=lambda other: later.index(other) if other in later else len(later)))
        awake.add(uid)
    return hits


def played(node: Node, dice: random.Random) -> tuple[list[str], int]:
    """Which models were asked for, and how often one was awake then."""
    weights = [1 / (rank + 1) for rank in range(MODELS)]
    asked: list[str] = []
    hits = 0
    for _ in range(1200):
        node.step()
        if dice.random() < 0.25:
            (uid,) = dice.choices([f"m{number}" for number in range(MODELS)], weights)
            asked.append(uid)
            hits += node.ask(uid)
    for _ in range(100):
        node.step()
    assert not node.fleet.resting.woken, "a request waits for ever"
    assert not node.refused, "they could have waited for their turn"
    return asked, hits


@pytest.mark.parametrize("seed", range(3))
def test_those_that_are_asked_for_most_are_awake(seed: int) -> None:
    node = Node()
    asked, hits = played(node, random.Random(seed))
    best = best_possible(asked)
    assert hits >= 0.75 * best, f"{hits} of {len(asked)} requests found their model awake, {best} could have"
    assert node.switches <= len(asked) - hits
    assert not node.roused, "dozing would have given nothing back"


@pytest.mark.parametrize("seed", range(3))
def test_where_dozing_gives_most_of_the_room_back_those_doze_that_would_sleep(seed: int) -> None:
    """A tenth of each stays, so fewer are awake at once, and many of those that are asked for have only dozed."""
    node = Node(dozing_bytes=GIB // 10)
    asked, hits = played(node, random.Random(seed))
    assert hits >= 0.5 * best_possible(asked)
    assert node.roused >= 0.4 * (len(asked) - hits), (node.roused, len(asked), hits)


@pytest.mark.parametrize("seed", range(3))
def test_where_dozing_gives_half_of_the_room_back_one_sleeps_rather_than_two_doze(seed: int) -> None:
    node = Node(dozing_bytes=GIB // 2, room=ROOM + 0.5)
    asked, hits = played(node, random.Random(seed))
    assert hits >= 0.75 * best_possible(asked)
    assert node.roused < 0.2 * (len(asked) - hits), (node.roused, len(asked), hits)


@pytest.mark.parametrize("room", [1, 2])
@pytest.mark.parametrize("dozing_bytes", [GIB, GIB // 2])
def test_where_hardly_any_has_room_everybody_waits_for_a_turn(room: int, dozing_bytes: int) -> None:
    played(Node(dozing_bytes, room), random.Random(0))


@pytest.mark.parametrize("seed", range(2))
def test_a_large_model_gets_room_although_small_ones_are_asked_for_all_the_time(seed: int) -> None:
    node, dice = Node(), random.Random(seed)
    node.fleet.want(make_wanted("large", claim_gib=6))
    put_to_sleep(node.fleet, "large", "not used yet")
    waited = 0.0
    for step in range(600):
        node.step()
        node.ask(f"m{dice.randrange(MODELS)}")
        if step == 200:
            node.ask("large")
        if step > 200 and "large" in node.fleet.resting.woken:
            waited += STEP_S
    assert not node.refused and 0 < waited < FAIR_S + 20
