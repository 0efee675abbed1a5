from __future__ import annotations

import random

import pytest

from cluster.control.held import Taken
from cluster.control.placement import Demand, NoRoom, Placement
from cluster.control.room import Room
from cluster.launch import Needs, ReplicaPlace
from cluster.status import Claim
from tests.make import GIB, make_node


def demand(uid: str, dice: random.Random) -> Demand:
    needed = dice.choice([1, 2, 3]) * GIB
    where = ReplicaPlace(n_gpu=dice.choice([None, "auto", 0.25, 0.5, 1, 2]))
    return Demand(uid, needed, where, dice.choice([None, 1.0]), Needs(memory_bytes=0, card_bytes=needed))


@pytest.mark.parametrize("seed", range(40))
def test_replicas_placed_one_after_another_go_where_each_would_go_alone(seed: int) -> None:
    """The offers that are remembered are those that a look at all nodes and all workers would find."""
    dice = random.Random(seed)
    nodes = [
        make_node(f"n{i}", gpus=dice.randint(0, 3), memory_gib=dice.choice([4, 8]), card_gib=dice.choice([None, 16]))
        for i in range(6)
    ]
    taken: list[Taken] = []
    room = Room.beside(nodes, [])
    refused = 0
    for _ in range(60):
        asked = demand(f"m{dice.randint(0, 5)}", dice)
        placement = room.place(asked)
        assert placement == Room.beside(nodes, taken).place(asked)
        if isinstance(placement, Placement):
            room.take(asked.uid, placement)
            taken.append(Taken(asked.uid, placement.node, placement.claim))
        else:
            refused += 1
    assert taken
    assert refused


def test_all_replicas_of_a_model_spread_evenly() -> None:
    room = Room.beside([make_node(f"n{i}") for i in range(4)], [])
    asked = Demand("m", GIB, ReplicaPlace(n_gpu=None))
    places = []
    for _ in range(8):
        placement = room.place(asked)
        assert isinstance(placement, Placement)
        room.take("m", placement)
        places.append(placement.node)
    assert sorted(places[:4]) == sorted(places[4:]) == ["n0", "n1", "n2", "n3"]


def test_a_share_and_a_number_of_cards_are_different_demands() -> None:
    room = Room.beside([make_node("a", gpus=2, card_gib=16)], [])
    beyond = Needs(memory_bytes=0, card_bytes=20 * GIB)
    whole = room.place(Demand("m", GIB, ReplicaPlace(n_gpu=1), None, beyond))
    assert isinstance(whole, NoRoom)
    other = room.place(Demand("m", GIB, ReplicaPlace(n_gpu=2), None, beyond))
    assert isinstance(other, Placement)


def test_it_fits_where_others_would_be_gone() -> None:
    claim = Claim(10 * GIB)
    room = Room.beside([make_node("a", memory_gib=16)], [Taken("old", "a", claim)])
    asked = Demand("m", 8 * GIB, ReplicaPlace(n_gpu=None))
    assert isinstance(room.place(asked), NoRoom)
    assert room.fits_without(asked, "a", [claim])
    assert not room.fits_without(asked, "a", [])
    assert not room.fits_without(asked, "gone", [claim])


def test_many_nodes_with_one_reason_are_counted() -> None:
    nodes = [make_node(f"n{i}", gpus=8) for i in range(37)] + [make_node("cpu")]
    full = [Taken("other", node.id, Claim(0, tuple((card, 1.0) for card in range(8)))) for node in nodes[:37]]
    asked = Demand("m", GIB, ReplicaPlace(n_gpu=1))
    told = str(Room.beside(nodes, full).place(asked))
    assert told == "m fits on no node (37 nodes: 0 of 8 GPUs free, 1 asked; cpu: has no GPU)."


def test_of_very_many_reasons_the_rarest_are_counted_too() -> None:
    nodes = [make_node(f"n{i}", memory_gib=i + 1) for i in range(300)]
    told = str(Room.beside(nodes, []).place(Demand("m", 1000 * GIB, ReplicaPlace(n_gpu=None))))
    assert len(told) < 1000
    assert told.endswith("and 292 other nodes).")
