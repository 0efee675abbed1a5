"""Which worker is ended when memory runs out, decided from figures alone."""

from __future__ import annotations

from dataclasses import replace

from cluster.control import pressure
from cluster.control.pressure import NodeMemory, Tenant
from cluster.status import Memory

GB = 10**9
FLOOR = 2 * GB
BIG, GROWN, SMALL = Tenant("big", 9 * GB, 9 * GB), Tenant("grown", 4 * GB, 1 * GB), Tenant("small", GB, GB)


class Node:
    """A node whose memory is measured again and again."""

    def __init__(self) -> None:
        self.known = NodeMemory()
        self.now = 0.0

    def reads(self, available: float, *tenants: Tenant, after: float = 0.05, kills: int = 0) -> str | None:
        """The worker that is ended after this measurement, if any."""
        self.now += after
        memory = Memory(24 * GB, int(available), 0, kills)
        self.known = pressure.after_reading(self.known, memory, FLOOR, self.now)
        tenant = pressure.who_gives_way(self.known, tenants, FLOOR, self.now)
        if tenant is None:
            return None
        self.known = pressure.gave_way(self.known, tenant, self.now)
        return tenant.name


def test_nobody_gives_way_while_there_is_enough() -> None:
    assert Node().reads(FLOOR, BIG, GROWN, SMALL) is None


def test_the_worker_furthest_above_its_claim_goes_before_a_larger_one() -> None:
    assert Node().reads(FLOOR - 1, BIG, GROWN, SMALL) == "grown"


def test_the_largest_goes_when_all_keep_to_their_claims() -> None:
    assert Node().reads(FLOOR - 1, BIG, SMALL) == "big"


def test_a_little_more_than_the_claim_is_not_too_much() -> None:
    near = Tenant("near", int(1.04 * GB), GB)
    assert Node().reads(FLOOR - 1, near, BIG) == "big"


def test_a_worker_without_a_claim_is_not_above_it() -> None:
    assert Node().reads(FLOOR - 1, Tenant("unclaimed", 3 * GB, 0), GROWN) == "grown"


def test_nobody_gives_way_who_holds_next_to_nothing() -> None:
    assert Node().reads(0, Tenant("tiny", 90 * 10**6, 10**6)) is None


def test_one_shortage_ends_one_worker_and_waits_for_its_memory() -> None:
    node = Node()
    assert node.reads(FLOOR - 1, BIG, GROWN) == "grown"
    assert [node.reads(FLOOR - 1, BIG) for _ in range(30)] == [None] * 30


def test_what_stays_as_it_is_ends_nobody_else() -> None:
    node = Node()
    node.reads(FLOOR - 1, BIG, GROWN)
    assert [node.reads(1.5 * GB, BIG, after=1.0) for _ in range(100)] == [None] * 100


def test_the_next_goes_when_it_falls_on_after_the_memory_of_the_last_is_back() -> None:
    node = Node()
    node.reads(FLOOR - 1, BIG, GROWN)
    assert node.reads(1.5 * GB, BIG, after=3) is None
    assert node.reads(1.4 * GB, BIG) is None
    assert node.reads(1.2 * GB, BIG) == "big"


def test_next_to_nothing_left_does_not_wait_for_long() -> None:
    node = Node()
    node.reads(FLOOR - 1, BIG, GROWN)
    assert node.reads(0.3 * GB, BIG, after=0.1) is None
    assert node.reads(0.3 * GB, BIG, after=0.5) == "big"


def test_only_what_fits_is_started_until_there_is_room_for_whoever_gave_way_again() -> None:
    node = Node()
    node.reads(FLOOR - 1, Tenant("grown", 4 * GB, 3 * GB))
    assert pressure.room_bytes(node.known, FLOOR) == -1
    node.reads(4.9 * GB)
    assert pressure.room_bytes(node.known, FLOOR) == 2.9 * GB
    node.reads(5 * GB)
    assert pressure.room_bytes(node.known, FLOOR) is None


def test_nothing_is_started_where_memory_is_short_though_nobody_could_give_way() -> None:
    node = Node()
    assert node.reads(FLOOR - GB) is None
    assert pressure.room_bytes(node.known, FLOOR) == -GB


def test_a_shortage_that_nobody_measures_any_more_is_forgotten() -> None:
    node = Node()
    node.reads(FLOOR - 1, GROWN)
    assert pressure.without_old(node.known, node.now + 59).shortage
    assert pressure.without_old(node.known, node.now + 61).shortage is None


def test_the_kernel_is_the_likely_cause_shortly_after_it_killed_or_when_memory_is_short() -> None:
    node = Node()
    node.reads(20 * GB, kills=3)
    assert not pressure.was_killed_for_memory(node.known, FLOOR, node.now), "those were before our time"
    node.reads(20 * GB, kills=4)
    assert pressure.was_killed_for_memory(node.known, FLOOR, node.now + 9)
    assert not pressure.was_killed_for_memory(node.known, FLOOR, node.now + 11)
    node.reads(1 * GB, kills=4)
    assert pressure.was_killed_for_memory(node.known, FLOOR, node.now + 11)


def test_the_usual_floor_suits_small_and_large_machines() -> None:
    assert pressure.floor_of(2 * GB, 0) == 0.2 * GB
    assert pressure.floor_of(8 * GB, 0) == 0.5 * GB
    assert pressure.floor_of(24 * GB, 0) == 1.2 * GB
    assert pressure.floor_of(1000 * GB, 0) == 4 * GB
    assert pressure.floor_of(24 * GB, 7) == 7


def test_looks_are_as_frequent_as_what_is_left_asks_for() -> None:
    pauses = [pressure.pause_s(Memory(24 * GB, available), FLOOR) for available in (GB, 3 * GB, 10 * GB, 100 * GB)]
    assert pauses == [0.05, 0.0625, 0.5, 2.0]


def test_only_what_matters_is_told_to_others() -> None:
    far = Memory(24 * GB, 20 * GB, GB)
    assert pressure.is_news(Memory(), far, FLOOR)
    assert not pressure.is_news(far, replace(far, available_bytes=19 * GB, own_bytes=GB + 10**7), FLOOR)
    assert pressure.is_news(far, replace(far, own_bytes=2 * GB), FLOOR)
    assert pressure.is_news(far, replace(far, available_bytes=3 * GB), FLOOR)
    assert pressure.is_news(far, replace(far, oom_kills=1), FLOOR)
    near = Memory(24 * GB, 3 * GB, GB)
    assert pressure.is_news(near, replace(near, available_bytes=int(2.8 * GB)), FLOOR)
    assert not pressure.is_news(near, replace(near, available_bytes=int(2.95 * GB)), FLOOR)
