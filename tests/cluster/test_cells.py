from __future__ import annotations

from cluster.cells import CellRoom, ReplicaNeed, split
from tests.make import GIB


def room(gib: float, cards: float = 0) -> CellRoom:
    return CellRoom(cards, gib * GIB, 80 * GIB if cards else 0)


ONE_GIB = ReplicaNeed(fits=True, memory_bytes=GIB)
ON_CARD = ReplicaNeed(fits=True, memory_bytes=GIB, card_bytes=20 * GIB)


def shares(
    total: int, rooms: dict[str, CellRoom], present: dict[str, int] | None = None, need: ReplicaNeed = ONE_GIB
) -> dict[str, int]:
    return {
        name: count for name, count in split(total, present or {}, dict.fromkeys(rooms, need), rooms).items() if count
    }


def test_replicas_are_split_by_free_room() -> None:
    assert shares(4, {"a": room(8), "b": room(8)}) == {"a": 2, "b": 2}
    assert shares(6, {"a": room(10), "b": room(4), "c": room(1)}) == {"a": 6}
    assert shares(9, {"a": room(10), "b": room(4), "c": room(1)}) == {"a": 8, "b": 1}


def test_on_cards_the_cards_decide() -> None:
    assert shares(4, {"a": room(1000), "b": room(100, cards=1)}, need=ON_CARD) == {"b": 4}
    whole = ReplicaNeed(fits=True, memory_bytes=GIB, card_bytes=GIB, cards=1.0)
    assert shares(3, {"a": room(90, cards=2), "b": room(90, cards=1)}, need=whole) == {"a": 2, "b": 1}
    unknown = {"a": CellRoom(2, 90 * GIB), "b": CellRoom(1, 90 * GIB)}
    assert shares(3, unknown, need=ON_CARD) == {"a": 2, "b": 1}, "of a card that says nothing each has one"


def test_what_is_there_stays() -> None:
    rooms = {"a": room(1), "b": room(100)}
    assert shares(3, rooms, present={"a": 3}) == {"a": 3}
    assert shares(4, rooms, present={"a": 3}) == {"a": 3, "b": 1}
    assert shares(2, rooms, present={"a": 2, "b": 2}) == {"b": 2}, "it is taken from the fullest"


def test_a_cell_where_it_does_not_fit_gets_none_while_another_has_room() -> None:
    rooms = {"a": room(100), "b": room(2)}
    needs = {"a": ReplicaNeed(fits=False, memory_bytes=GIB), "b": ONE_GIB}
    assert split(2, {}, needs, rooms) == {"b": 2}
    assert split(3, {}, needs, rooms) == {"b": 2, "a": 1}, "the last one waits where most is free"


def test_the_room_of_a_cell_is_that_of_its_open_nodes() -> None:
    node = {
        "state": "ready",
        "gpu_count": 2,
        "gpu_claimed": 0.5,
        "gpu_vram_total": 160,
        "mem_total": 10,
        "mem_claimed": 4,
    }
    assert CellRoom.of([node, {**node, "state": "draining"}, {**node, "gpu_count": 0, "gpu_claimed": 0}]) == CellRoom(
        1.5, 12, 80
    )
    assert CellRoom.of([]) == CellRoom(0, 0)
