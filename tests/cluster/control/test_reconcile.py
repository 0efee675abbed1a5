from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from cluster.control.held import Taken
from cluster.control.lifecycle import HOLDS_CLAIM, WorkerRecord
from cluster.control.reconcile import NO_LOSS, FleetPlan, Loss, is_at_rest, is_settled, reconcile
from cluster.control.room import Room
from cluster.launch import Wanted
from cluster.status import Claim, Node, WorkerName, WorkerState
from tests.make import GIB, make_node, make_wanted

S = WorkerState
NOW = 100.0


def worker(
    index: int = 0, state: S = S.READY, *, uid: str = "m", generation: int = 1, node: str = "n0", since: float = 0.0
) -> WorkerRecord:
    """A worker named after its state, so that plans are easy to read."""
    suffix = f"{state.lower()}{int(since) or ''}"
    return WorkerRecord(WorkerName(uid, generation, index, suffix), state, node, Claim(GIB), since)


def plan_for(
    wanted: Wanted | list[Wanted] | None,
    workers: list[WorkerRecord],
    *,
    nodes: list[Node] | None = None,
    losses: Mapping[tuple[str, int], Loss] | None = None,
    hold: str = "",
    last_ready: Wanted | None = None,
    old_losses: Mapping[tuple[str, int], Loss] | None = None,
) -> FleetPlan:
    wishes = [wanted] if isinstance(wanted, Wanted) else wanted or []
    suffixes = map("new{}".format, itertools.count())
    taken = [Taken(w.name.uid, w.node, w.claim) for w in workers if w.state in HOLDS_CLAIM]
    return reconcile(
        {wish.uid: wish for wish in wishes},
        workers,
        Room.beside([make_node()] if nodes is None else nodes, taken),
        now=NOW,
        new_suffix=lambda: next(suffixes),
        losses=losses,
        hold=hold,
        last_ready={last_ready.uid: last_ready} if last_ready else None,
        old_losses=old_losses,
    )


@dataclass
class Case:
    wanted: Wanted | list[Wanted] | None
    workers: list[WorkerRecord]
    #: Uid, generation and index of each worker.
    start: list[tuple[str, int, int]] = field(default_factory=list)
    drain: list[WorkerRecord] = field(default_factory=list)
    forget: list[WorkerRecord] = field(default_factory=list)
    losses: Mapping[tuple[str, int], Loss] = field(default_factory=dict)
    nodes: list[Node] | None = None
    waiting: Mapping[str, str] = field(default_factory=dict)
    hold: str = ""
    last_ready: Wanted | None = None
    old_losses: Mapping[tuple[str, int], Loss] = field(default_factory=dict)

    def plan(self) -> FleetPlan:
        return plan_for(
            self.wanted,
            self.workers,
            nodes=self.nodes,
            losses=self.losses,
            hold=self.hold,
            last_ready=self.last_ready,
            old_losses=self.old_losses,
        )


def wish(replica: int = 1, **fields: Any) -> Wanted:
    return make_wanted("m", replica=replica, **fields)


UPDATED = wish(generation=2)
#: One worker of 1 GiB fits.
SMALL = [make_node(memory_gib=1)]
NO_ROOM = "m fits on no node (n0: 0.0 GiB of 1.0 GiB memory free, 1.0 GiB asked)."

LEAVING = [replace(make_node("n0"), draining=True), make_node("n1")]
CASES = {
    # --- nodes that drain
    "what serves on a node that drains is started elsewhere": Case(
        wish(), [worker()], start=[("m", 1, 0)], nodes=LEAVING
    ),
    "it serves until the other is READY": Case(wish(), [worker(), worker(state=S.LOADING, node="n1")], nodes=LEAVING),
    "then it goes": Case(wish(), [worker(), worker(node="n1")], drain=[worker()], nodes=LEAVING),
    "what only loads there goes at once": Case(
        wish(), [worker(state=S.LOADING)], start=[("m", 1, 0)], drain=[worker(state=S.LOADING)], nodes=LEAVING
    ),
    "what is too many there goes": Case(wish(), [worker(1), worker(node="n1")], drain=[worker(1)], nodes=LEAVING),
    "where there is no room elsewhere it serves on": Case(
        wish(),
        [worker()],
        nodes=LEAVING[:1],
        waiting={"m": "m fits on no node (n0: draining)."},
    ),
    "an older generation goes on until the new one is READY elsewhere": Case(
        UPDATED, [worker()], start=[("m", 2, 0)], nodes=LEAVING
    ),
    # --- what is there
    "nothing is wanted and nothing runs": Case(None, []),
    "what is wanted runs": Case(wish(), [worker()]),
    "launch": Case(wish(2), [], start=[("m", 1, 0), ("m", 1, 1)]),
    "one is on its way": Case(wish(), [worker(state=S.STARTING)]),
    "one is silent: unknown is not dead": Case(wish(), [worker(state=S.SUSPECT)]),
    # --- losses
    "one died": Case(wish(2), [worker(0), worker(1, S.LOST)], start=[("m", 1, 1)], forget=[worker(1, S.LOST)]),
    "one died a moment ago": Case(
        wish(2),
        [worker(0), worker(1, S.LOST)],
        forget=[worker(1, S.LOST)],
        losses={("m", 1): Loss(3, NOW + 7.6, 4)},
        waiting={"m": "lost 3 times, started again 4 s after the last loss"},
    ),
    "the pause is over": Case(wish(), [], start=[("m", 1, 0)], losses={("m", 0): Loss(3, NOW)}),
    "the pause of one index does not hold another": Case(
        wish(2),
        [],
        start=[("m", 1, 1)],
        losses={("m", 0): Loss(1, NOW + 1, 1)},
        waiting={"m": "lost once, started again 1 s after the last loss"},
    ),
    "gone ones are forgotten": Case(wish(), [worker(), worker(1, S.GONE)], forget=[worker(1, S.GONE)]),
    "nothing is started while held": Case(wish(2), [worker(0)], hold="storm", waiting={"m": "storm"}),
    "held or not, what is not wanted goes": Case(None, [worker()], drain=[worker()], hold="storm"),
    # --- how many
    "scale up": Case(wish(3), [worker(0)], start=[("m", 1, 1), ("m", 1, 2)]),
    "scale down": Case(wish(1), [worker(0), worker(1), worker(2)], drain=[worker(1), worker(2)]),
    "scale down while loading": Case(wish(1), [worker(0), worker(1, S.LOADING)], drain=[worker(1, S.LOADING)]),
    "one that is draining is not counted": Case(wish(), [worker(0, S.DRAINING)], start=[("m", 1, 0)]),
    "of duplicates the one that serves stays": Case(
        wish(), [worker(0, S.LOADING), worker(0, S.READY)], drain=[worker(0, S.LOADING)]
    ),
    "of equal duplicates the older one stays": Case(
        wish(), [worker(0, since=9), worker(0, since=5)], drain=[worker(0, since=9)]
    ),
    "one that answers stays rather than one that does not": Case(
        wish(), [worker(0, S.SUSPECT), worker(0, S.READY)], drain=[worker(0, S.SUSPECT)]
    ),
    "there is room for one of two": Case(wish(2), [], start=[("m", 1, 0)], nodes=SMALL, waiting={"m": NO_ROOM}),
    "there are no nodes": Case(wish(), [], nodes=[], waiting={"m": "m fits on no node (there are no nodes)."}),
    # --- wishes that end
    "unwanted": Case(None, [worker(0), worker(1, S.LOADING)], drain=[worker(0), worker(1, S.LOADING)]),
    "unwanted and draining already": Case(None, [worker(0, S.DRAINING)]),
    "unwanted and failed": Case(None, [worker(0, S.FAILED)], forget=[worker(0, S.FAILED)]),
    "other models are left alone": Case(
        [wish(), make_wanted("other")],
        [worker(), worker(uid="gone")],
        start=[("other", 1, 0)],
        drain=[worker(uid="gone")],
    ),
    # --- failures
    "failed: not started again": Case(wish(), [worker(0, S.FAILED)]),
    "failed: the others go on": Case(wish(2), [worker(0, S.FAILED)], start=[("m", 1, 1)]),
    "failed and the wish has changed": Case(
        UPDATED, [worker(0, S.FAILED)], start=[("m", 2, 0)], forget=[worker(0, S.FAILED)]
    ),
    "failed and scaled away": Case(wish(1), [worker(0), worker(1, S.FAILED)], drain=[worker(1, S.FAILED)]),
    # --- updates
    "the new generation starts beside the old": Case(UPDATED, [worker()], start=[("m", 2, 0)]),
    "the old one serves until the new one is READY": Case(UPDATED, [worker(), worker(generation=2, state=S.LOADING)]),
    "the new one is READY": Case(UPDATED, [worker(), worker(generation=2)], drain=[worker()]),
    "one of two new ones is READY": Case(
        wish(2, generation=2),
        [worker(0), worker(1), worker(0, generation=2), worker(1, S.LOADING, generation=2)],
        drain=[worker(1)],
    ),
    "old ones that do not serve go first": Case(
        wish(2, generation=2),
        [worker(0, S.LOADING), worker(1), worker(0, generation=2), worker(1, S.LOADING, generation=2)],
        drain=[worker(0, S.LOADING)],
    ),
    "without room the old one gives way": Case(
        UPDATED, [worker()], drain=[worker()], nodes=SMALL, waiting={"m": NO_ROOM}
    ),
    "one gives way at a time": Case(
        wish(2, generation=2),
        [worker(0), worker(1)],
        drain=[worker(1)],
        nodes=[make_node(memory_gib=2)],
        waiting={"m": "m fits on no node (n0: 0.0 GiB of 2.0 GiB memory free, 1.0 GiB asked)."},
    ),
    "while one is draining no other gives way": Case(
        wish(2, generation=2),
        [worker(0), worker(1, S.DRAINING)],
        nodes=[make_node(memory_gib=2)],
        waiting={"m": "m fits on no node (n0: 0.0 GiB of 2.0 GiB memory free, 1.0 GiB asked)."},
    ),
    "the old one does not give way for nothing": Case(
        wish(claim_gib=2, generation=2),
        [worker()],
        nodes=SMALL,
        waiting={"m": "m fits on no node (n0: 0.0 GiB of 1.0 GiB memory free, 2.0 GiB asked)."},
    ),
    "a bad update leaves the old serving": Case(UPDATED, [worker(), worker(generation=2, state=S.FAILED)]),
    # --- going on with the last version that was READY
    "a bad update and the death of the last old one": Case(
        UPDATED, [worker(generation=2, state=S.FAILED)], start=[("m", 1, 0)], last_ready=wish()
    ),
    "of two old ones one died": Case(
        wish(2, generation=2),
        [worker(1), worker(0, S.FAILED, generation=2), worker(1, S.FAILED, generation=2)],
        start=[("m", 1, 0)],
        last_ready=wish(2),
    ),
    "the old one died while the new one loads": Case(
        UPDATED, [worker(generation=2, state=S.LOADING)], start=[("m", 1, 0)], last_ready=wish()
    ),
    "where there is room for one only it is the new one's": Case(
        UPDATED, [worker(generation=2, state=S.LOADING)], nodes=SMALL, last_ready=wish()
    ),
    "as many as the new one lacks": Case(
        wish(3, generation=2),
        [worker(0, generation=2), worker(1, S.FAILED, generation=2), worker(2, S.FAILED, generation=2)],
        start=[("m", 1, 0), ("m", 1, 1)],
        last_ready=wish(3),
    ),
    "no more than it had": Case(
        wish(3, generation=2),
        [worker(index, S.FAILED, generation=2) for index in range(3)],
        start=[("m", 1, 0)],
        last_ready=wish(1),
    ),
    "one that is on its way again is enough": Case(
        UPDATED, [worker(generation=2, state=S.FAILED), worker(state=S.STARTING)], last_ready=wish()
    ),
    "one of yet another version serves": Case(
        wish(generation=3), [worker(generation=3, state=S.FAILED), worker(generation=2)], last_ready=wish()
    ),
    "of those that only load the one that is known to work stays": Case(
        wish(generation=3),
        [worker(generation=3, state=S.FAILED), worker(generation=2, state=S.LOADING), worker(state=S.STARTING)],
        drain=[worker(generation=2, state=S.LOADING)],
        last_ready=wish(),
    ),
    "its losses have pauses of their own": Case(
        UPDATED,
        [worker(generation=2, state=S.FAILED)],
        losses={("m", 0): Loss(9, NOW + 60)},
        old_losses={("m", 0): Loss(1, NOW + 1)},
        last_ready=wish(),
    ),
    "the new one crashes at every start": Case(
        UPDATED,
        [],
        start=[("m", 1, 0)],
        losses={("m", 0): Loss(5, NOW + 30, 16)},
        last_ready=wish(),
        waiting={"m": "lost 5 times, started again 16 s after the last loss"},
    ),
    "what serves does not give way for ever to one that crashes": Case(
        UPDATED,
        [worker()],
        losses={("m", 0): Loss(3, NOW)},
        nodes=SMALL,
        last_ready=wish(),
        waiting={"m": NO_ROOM},
    ),
    "once the new one was READY the old one is history": Case(
        UPDATED, [worker(generation=2, state=S.FAILED)], last_ready=UPDATED
    ),
    "nothing old is started while held": Case(
        UPDATED, [worker(generation=2, state=S.FAILED)], hold="storm", last_ready=wish()
    ),
    "an update of one that failed and one that serves": Case(
        wish(2, generation=2),
        [worker(0), worker(1, S.FAILED)],
        start=[("m", 2, 0), ("m", 2, 1)],
        forget=[worker(1, S.FAILED)],
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_plan(case: Case) -> None:
    plan = case.plan()
    assert [(s.name.uid, s.name.generation, s.name.index) for s in plan.start] == case.start
    assert sorted(map(str, plan.drain)) == sorted(map(str, case.drain))
    assert sorted(map(str, plan.forget)) == sorted(map(str, case.forget))
    assert {uid: why.reason for uid, why in plan.waiting.items()} == case.waiting
    assert bool(plan) is bool(case.start or case.drain or case.forget)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_worker_is_drained_or_forgotten_once(case: Case) -> None:
    plan = case.plan()
    touched = [str(worker) for worker in (*plan.drain, *plan.forget)]
    assert len(touched) == len(set(touched))


def test_new_workers_count_against_each_other() -> None:
    plan = plan_for([make_wanted("a"), make_wanted("b")], [], nodes=SMALL)
    assert [start.name.uid for start in plan.start] == ["a"]
    assert set(plan.waiting) == {"b"}


def test_a_draining_worker_keeps_its_memory_until_it_is_gone() -> None:
    plan = plan_for(wish(), [worker(0, S.DRAINING)], nodes=SMALL)
    assert not plan.start
    assert {uid: why.reason for uid, why in plan.waiting.items()} == {"m": NO_ROOM}


@pytest.mark.parametrize("state", [S.FAILED, S.LOST, S.GONE])
def test_an_ended_worker_has_given_its_memory_back(state: S) -> None:
    plan = plan_for(make_wanted("other"), [worker(0, state)], nodes=SMALL)
    assert [start.name.uid for start in plan.start] == ["other"]


def test_a_start_after_a_loss_says_so() -> None:
    assert plan_for(wish(), []).start[0].why == "wanted"
    assert plan_for(wish(), [], losses={("m", 0): Loss(1, NOW - 1)}).start[0].why == "lost"


def test_the_pause_after_a_loss_doubles_to_its_longest() -> None:
    loss, pauses = NO_LOSS, []
    for _ in range(8):
        loss = loss.again(NOW, longest_s=60.0)
        pauses.append(loss.not_before - NOW)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_many_losses_do_not_overflow() -> None:
    assert Loss(5000, 0.0).again(NOW, longest_s=60.0).not_before == NOW + 60


@pytest.mark.parametrize(
    ("workers", "settled"),
    [
        pytest.param([worker(0), worker(1)], True, id="all run"),
        pytest.param([worker(0), worker(1), worker(2, S.LOST)], True, id="ended ones do not count"),
        pytest.param([worker(0)], False, id="one is missing"),
        pytest.param([worker(0), worker(1, S.LOADING)], False, id="one loads"),
        pytest.param([worker(0), worker(1), worker(2)], False, id="one is too many"),
        pytest.param([worker(0), worker(0), worker(1)], False, id="one is there twice"),
        pytest.param([worker(0), worker(1, generation=2)], False, id="one is of another generation"),
        pytest.param([worker(0), worker(1), worker(uid="x")], False, id="one is not wanted"),
    ],
)
def test_settled_is_exactly_what_is_wanted(workers: list[WorkerRecord], settled: bool) -> None:
    assert is_settled({"m": wish(2)}, workers) is settled


def test_a_model_on_a_node_that_drains_is_not_at_rest() -> None:
    nodes = {node.id: node for node in LEAVING}
    assert is_at_rest(wish(), wish(), [worker(node="n1")], nodes)
    assert not is_at_rest(wish(), wish(), [worker(node="n0")], nodes)


def test_an_update_without_room_ends_with_the_new_one() -> None:
    """The plans are carried out one after another."""
    workers = [worker()]
    seen = []
    for _ in range(4):
        plan = plan_for(UPDATED, workers, nodes=SMALL)
        seen.append((len(plan.start), len(plan.drain)))
        workers = [w for w in workers if w not in plan.drain]
        workers += [worker(start.name.index, generation=start.name.generation) for start in plan.start]
    assert seen == [(0, 1), (1, 0), (0, 0), (0, 0)]
    assert is_settled({"m": UPDATED}, workers)
