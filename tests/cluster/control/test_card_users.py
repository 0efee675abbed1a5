from __future__ import annotations

from dataclasses import replace
from typing import Any

from cluster.cards import Card, CardUser
from cluster.control.card_users import LEAVING_S, CardUsers, NodeUsers
from cluster.control.lifecycle import WorkerRecord
from cluster.control.workers import Workers
from cluster.status import Claim, Report, WorkerName, WorkerState
from tests.make import GIB, make_node


def worker(uid: str = "m", pid: int = 100, *, card: int = 0, share: float = 0.5) -> WorkerRecord:
    name = WorkerName(uid, 1, 0, "abc")
    claim = Claim(GIB, ((card, share),), 0.0, GIB)
    return WorkerRecord(name, WorkerState.READY, "n0", claim, 0.0, report=Report(pid=pid))


def user(pid: int, gib: float | None, name: str = "python", **fields: Any) -> CardUser:
    return CardUser(pid, name, None if gib is None else int(gib * GIB), **fields)


def card(used_gib: float | None, *users: CardUser, gib: float = 24) -> Card:
    used_bytes = None if used_gib is None else int(used_gib * GIB)
    return Card("NVIDIA X", "GPU-1", int(gib * GIB), used_bytes, 0.5, users)


def whose(cards: list[Card], *workers: WorkerRecord, users: NodeUsers | None = None, now: float = 0.0) -> Card:
    return (users or NodeUsers()).attributed(cards, workers, now)[0]


def test_a_worker_and_what_it_starts_are_ours_and_all_others_foreign() -> None:
    found = whose([card(21, user(100, 4), user(101, 5, parents=(100, 1)), user(4711, 12))], worker())
    assert [each.worker for each in found.users] == ["worker:m:1:0-abc", "worker:m:1:0-abc", ""]
    assert (found.foreign_bytes, found.foreign) == (12 * GIB, "pid 4711, python")


def test_few_strangers_are_named() -> None:
    found = whose([card(6, user(1, 1, "a"), user(2, 2, "b"), user(3, 3, "c"))])
    assert (found.foreign_bytes, found.foreign) == (6 * GIB, "pid 3, c; pid 2, b; 1 more")


def test_what_a_worker_leaves_behind_is_not_a_strangers_for_a_moment() -> None:
    users, left = NodeUsers(), card(9, user(100, 9))
    assert whose([left], worker(), users=users).foreign_bytes == 0
    gone = whose([left], users=users, now=10.0)
    assert (gone.foreign_bytes, gone.users[0].worker) == (0, "worker:m:1:0-abc")
    # What never comes back is somebody's.
    assert whose([left], users=users, now=10.0 + LEAVING_S).foreign_bytes == 9 * GIB
    # Another process that gets the same number later is a stranger at once.
    whose([card(0)], users=users, now=50.0)
    assert whose([left], users=users, now=51.0).foreign_bytes == 9 * GIB


def test_a_process_of_our_ray_may_be_starting_or_leaving() -> None:
    users, starting = NodeUsers(), card(3, user(300, 3, "ray::WorkerActor", is_ours=True))
    assert whose([starting], users=users).foreign_bytes == 0
    assert whose([starting], worker(pid=300), users=users, now=20.0).users[0].worker
    # The moment begins anew when it was a worker's meanwhile.
    assert whose([starting], users=users, now=40.0).foreign_bytes == 0
    assert whose([starting], users=users, now=40.0 + LEAVING_S).foreign_bytes == 3 * GIB


def test_in_a_container_the_claims_of_workers_account_for_what_nobody_is_named_for() -> None:
    """The driver shows the numbers that processes have outside, or none."""
    assert whose([card(11)], worker(share=0.5)).foreign_bytes == 0
    found = whose([card(20)], worker(share=0.5))
    assert (found.foreign_bytes, found.foreign) == (8 * GIB, "the driver does not say whose")
    # Of another card's worker nothing is here.
    assert whose([card(11)], worker(share=0.5, card=1)).foreign_bytes == 11 * GIB
    # One that is shown takes what it is shown to take.
    assert whose([card(11, user(100, 4))], worker(share=0.5)).foreign_bytes == 7 * GIB


def test_in_a_container_processes_that_nobody_here_has_are_workers_as_far_as_these_may_have_the_card() -> None:
    """The driver shows the numbers that they have outside, each with its bytes."""
    assert whose([card(11, user(70001, 11, ""))], worker(share=0.5)).foreign_bytes == 0
    found = whose([card(20, user(70001, 11, ""), user(70002, 9, ""))], worker(share=0.5))
    assert (found.foreign_bytes, found.foreign) == (
        8 * GIB,
        "pid 70001, of another container or user; pid 70002, of another container or user",
    )
    # What has a name here is no worker's, and hides behind none.
    found = whose([card(14, user(70001, 11, ""), user(4711, 3))], worker(share=0.5))
    assert (found.foreign_bytes, found.foreign) == (3 * GIB, "pid 4711, python")
    # What they may have counts once, whether the driver tells whose it is or not.
    assert whose([card(20, user(70001, 6, ""))], worker(share=0.5)).foreign_bytes == 8 * GIB


def test_of_a_node_that_is_gone_nothing_is_remembered() -> None:
    users, workers = CardUsers(), Workers()
    node = replace(make_node("n0", gpus=1), cards=(card(9, user(100, 9)),))
    workers["m"] = worker()
    assert users.shown([node], workers, 0.0)["n0"].cards[0].users[0].worker
    del workers["m"]
    # Its worker has only just ended.
    assert users.shown([node], workers, 1.0)["n0"].cards[0].foreign_bytes == 0
    assert users.shown([], workers, 2.0) == {}
    assert users.shown([node], workers, 3.0)["n0"].cards[0].foreign_bytes == 9 * GIB


def test_what_the_driver_keeps_for_itself_is_nobodys() -> None:
    assert whose([card(0.25)]).foreign_bytes == 0
    assert whose([card(0.25 + 12, user(100, 12))], worker()).foreign_bytes == 0


def test_where_the_driver_says_nothing_nothing_is_said() -> None:
    assert whose([card(None, user(1, 3))]).foreign_bytes == 0
    unsized = replace(card(5), total_bytes=None)
    assert whose([unsized]).foreign_bytes == 0


def test_a_process_whose_bytes_are_not_told_has_what_is_left() -> None:
    found = whose([card(9, user(4711, None))])
    assert (found.foreign_bytes, found.foreign) == (9 * GIB, "pid 4711, python")
