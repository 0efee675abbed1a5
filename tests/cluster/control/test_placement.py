from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from cluster.cards import Card
from cluster.control.held import Taken
from cluster.control.placement import Demand, NoRoom, Placement, demand_of
from cluster.control.room import Room
from cluster.errors import DoesNotFit
from cluster.launch import Needs, ReplicaPlace
from cluster.status import Claim, Node
from tests.make import GIB, make_node, make_wanted


def place(
    demand: Demand, nodes: Sequence[Node], taken: Sequence[Taken], memory_fraction: float = 1.0
) -> Placement | NoRoom:
    return Room.beside(nodes, taken, memory_fraction).place(demand)


def room_for(demand: Demand, nodes: Sequence[Node], taken: Sequence[Taken], memory_fraction: float = 1.0) -> int | None:
    return Room.beside(nodes, taken, memory_fraction).most(demand)


def demand(uid: str = "m", gib: float = 1, n_cpu: float | None = None, host_gib: float = 0, **where: Any) -> Demand:
    """The same on a card as without one, with `host_gib` of main memory beside it."""
    on_card = Needs(memory_bytes=int(host_gib * GIB), card_bytes=int(gib * GIB))
    return Demand(uid, int(gib * GIB), ReplicaPlace(**{"n_gpu": None, **where}), n_cpu, on_card)


def labelled(id: str, *, memory_gib: float = 16, **labels: str) -> Node:
    return replace(make_node(id, memory_gib=memory_gib), labels=tuple(labels.items()))


def on_card(*cards: tuple[int, float], gib: float = 1, host_gib: float = 0) -> Claim:
    return Claim(int(host_gib * GIB), cards, 0.0, int(gib * GIB))


def on_cards(node: str, *cards: tuple[int, float], uid: str = "other") -> Taken:
    return Taken(uid, node, Claim(0, cards))


def in_memory(node: str, gib: float, uid: str = "other", cpus: float = 0) -> Taken:
    return Taken(uid, node, Claim(int(gib * GIB), (), cpus))


def cards(found: Placement | NoRoom) -> tuple[tuple[int, float], ...]:
    assert isinstance(found, Placement), str(found)
    return found.claim.cards


def reason(found: Placement | NoRoom) -> str:
    """Why the only node was not chosen."""
    assert isinstance(found, NoRoom), found
    ((_, told),) = found.reasons
    return told


# --------------------------------------------------------------------------------------------------- memory


def test_on_cpu_memory_is_claimed_and_cores_are_shared() -> None:
    found = place(demand(gib=3), [make_node("a", cpus=2, memory_gib=8)], [in_memory("a", 4), in_memory("a", 1)])
    assert found == Placement("a", Claim(3 * GIB, (), 0.0))


def test_memory_refuses() -> None:
    found = place(demand(gib=2.5), [make_node("a", memory_gib=8)], [in_memory("a", 6)])
    assert reason(found) == "2.0 GiB of 8.0 GiB memory free, 2.5 GiB asked"


def test_models_may_claim_a_share_of_the_memory() -> None:
    node = make_node("a", memory_gib=10)
    assert reason(place(demand(gib=9), [node], [], memory_fraction=0.8)) == (
        "8.0 GiB of 8.0 GiB memory free, 9.0 GiB asked"
    )
    assert isinstance(place(demand(gib=8), [node], [], memory_fraction=0.8), Placement)


def test_overdrawn_memory_is_told_as_none_free() -> None:
    """What is measured may be more than what was claimed."""
    found = place(demand(gib=1), [make_node("a", memory_gib=8)], [in_memory("a", 9)])
    assert reason(found) == "0.0 GiB of 8.0 GiB memory free, 1.0 GiB asked"


def test_the_node_with_the_most_free_memory_is_taken() -> None:
    nodes = [make_node("a", memory_gib=16), make_node("b", memory_gib=12)]
    assert place(demand(), nodes, []) == Placement("a", Claim(GIB))
    assert place(demand(), nodes, [in_memory("a", 8)]) == Placement("b", Claim(GIB))


# ---------------------------------------------------------------------------------------------------- cores


def test_asked_cores_are_reserved() -> None:
    found = place(demand(n_cpu=2), [make_node("a", cpus=4)], [in_memory("a", 1, cpus=2)])
    assert found == Placement("a", Claim(GIB, (), 2))


def test_cores_refuse_only_who_asks_for_them() -> None:
    node, taken = make_node("a", cpus=4), [in_memory("a", 1, cpus=3.5)]
    assert reason(place(demand(n_cpu=1), [node], taken)) == "0.5 of 4 cores free, 1 asked"
    assert isinstance(place(demand(), [node], taken), Placement)


def test_a_head_without_cores_holds_no_models() -> None:
    head, worker = make_node("head", cpus=0, memory_gib=64), make_node("a", memory_gib=4)
    assert reason(place(demand(), [head], [])) == "holds no models (0 cores)"
    assert place(demand(), [head, worker], []) == Placement("a", Claim(GIB))


# ---------------------------------------------------------------------------------------------------- cards


def test_auto_is_a_share_of_a_card_as_large_as_the_memory_it_needs() -> None:
    node = make_node("a", gpus=2, card_gib=24)
    assert cards(place(demand(gib=6, n_gpu="auto"), [node], [])) == ((0, 0.25),)
    assert cards(place(demand(gib=6.1, n_gpu="auto"), [node], [])) == ((0, 0.26),)


def test_auto_is_a_whole_card_where_its_memory_is_unknown() -> None:
    assert cards(place(demand(n_gpu="auto"), [make_node("a", gpus=2)], [])) == ((0, 1.0),)


def test_auto_means_a_gpu_wherever_there_is_one() -> None:
    nodes = [make_node("cpu", memory_gib=64), make_node("gpu", gpus=1)]
    assert place(demand(n_gpu="auto"), nodes, []) == Placement("gpu", on_card((0, 1.0)))


def test_auto_is_cpu_in_a_cluster_without_gpus() -> None:
    assert place(demand(n_gpu="auto"), [make_node("a")], []) == Placement("a", Claim(GIB))


def test_auto_counts_only_cards_that_can_be_used() -> None:
    """Ray counts cards that torch cannot compute on: Apple's, Intel's, or any with a torch for CPUs."""
    paper = replace(make_node("paper", gpus=2), usable_gpus=0)
    assert place(demand(n_gpu="auto"), [paper], []) == Placement("paper", Claim(GIB))
    assert cards(place(demand(n_gpu=1), [paper], [])) == ((0, 1.0),), "who asks by number knows why"
    assert cards(place(demand(n_gpu="auto", gpu_idx=(1,)), [paper], [])) == ((1, 1.0),)
    real = make_node("real", gpus=1)
    assert place(demand(n_gpu="auto"), [paper, real], []) == Placement("real", on_card((0, 1.0)))
    taken = [Taken("other", "real", Claim(0, ((0, 1.0),)))]
    told = str(place(demand(n_gpu="auto"), [paper, real], taken))
    assert "paper: has no GPU that torch can use" in told and "real: 0 of 1 GPUs free" in told
    half = replace(make_node("half", gpus=2), usable_gpus=1)
    assert cards(place(demand(n_gpu="auto"), [half], [])) == ((0, 1.0),)
    assert "0 of 1 GPUs free" in str(place(demand(n_gpu="auto"), [half], [Taken("o", "half", Claim(0, ((0, 1.0),)))]))


def test_auto_does_not_fall_back_to_cpu_because_cards_are_full() -> None:
    nodes = [make_node("cpu"), make_node("gpu", gpus=1)]
    found = place(demand(n_gpu="auto"), nodes, [on_cards("gpu", (0, 1.0))])
    assert isinstance(found, NoRoom)
    assert dict(found.reasons) == {"cpu": "has no GPU", "gpu": "0 of 1 GPUs free, 1 asked"}


def test_auto_is_cpu_on_a_node_without_cards_that_the_launch_names() -> None:
    nodes = [make_node("cpu"), make_node("gpu", gpus=1)]
    assert place(demand(n_gpu="auto", worker_ip="cpu"), nodes, []) == Placement("cpu", Claim(GIB))
    assert place(demand(n_gpu="auto", worker_ip="gpu"), nodes, []) == Placement("gpu", on_card((0, 1.0)))


def test_none_is_cpu_even_where_there_are_gpus() -> None:
    assert place(demand(n_gpu=None), [make_node("a", gpus=1)], []) == Placement("a", Claim(GIB))


def test_whole_cards_are_whole() -> None:
    node = make_node("a", gpus=3)
    assert cards(place(demand(n_gpu=2), [node], [on_cards("a", (1, 0.1))])) == ((0, 1.0), (2, 1.0))
    assert reason(place(demand(n_gpu=3), [node], [on_cards("a", (1, 0.1))])) == "2 of 3 GPUs free, 3 asked"


def test_a_fraction_shares_a_card() -> None:
    node = make_node("a", gpus=1)
    assert cards(place(demand(n_gpu=0.5), [node], [on_cards("a", (0, 0.5))])) == ((0, 0.5),)
    assert reason(place(demand(n_gpu=0.6), [node], [on_cards("a", (0, 0.5))])) == "0.5 of a GPU free, 0.6 asked"


def test_three_thirds_fill_a_card() -> None:
    taken = [on_cards("a", (0, 0.33)), on_cards("a", (0, 0.33))]
    assert cards(place(demand(n_gpu=0.34), [make_node("a", gpus=1)], taken)) == ((0, 0.34),)


def test_the_tightest_card_that_fits_is_taken() -> None:
    """Then whole cards stay free for models that need one."""
    nodes = [make_node("a", gpus=2), make_node("b", gpus=1)]
    taken = [on_cards("a", (1, 0.3)), on_cards("b", (0, 0.6))]
    assert place(demand(n_gpu=0.4), nodes, taken) == Placement("b", on_card((0, 0.4)))
    assert place(demand(n_gpu=0.5), nodes, taken) == Placement("a", on_card((1, 0.5)))
    assert place(demand(n_gpu=0.9), nodes, taken) == Placement("a", on_card((0, 0.9)))


def test_a_node_with_many_free_cards_is_kept_for_those_who_need_them() -> None:
    nodes = [make_node("a", gpus=4), make_node("b", gpus=1), make_node("c", gpus=2)]
    assert place(demand(n_gpu=1), nodes, []) == Placement("b", on_card((0, 1.0)))
    assert place(demand(n_gpu=0.5), nodes, [on_cards("b", (0, 1.0))]) == Placement("c", on_card((0, 0.5)))


def test_equal_nodes_are_taken_in_the_same_order_however_they_are_listed() -> None:
    nodes = [make_node("b"), make_node("a"), make_node("c")]
    assert place(demand(), nodes, []) == place(demand(), nodes[::-1], []) == Placement("a", Claim(GIB))


def test_more_memory_than_a_card_has_is_refused() -> None:
    found = place(demand(gib=30, n_gpu="auto"), [make_node("a", gpus=8, card_gib=24)], [])
    assert reason(found) == "a GPU has 24.0 GiB, 30.0 GiB asked"


def test_more_than_the_share_that_was_asked_for_has_is_refused() -> None:
    node = make_node("a", gpus=4, card_gib=24)
    assert reason(place(demand(gib=7, n_gpu=0.25), [node], [])) == "0.25 of a GPU has 6.0 GiB, 7.0 GiB asked"
    assert reason(place(demand(gib=30, n_gpu=1), [node], [])) == "a GPU has 24.0 GiB, 30.0 GiB asked"
    assert reason(place(demand(gib=50, n_gpu=2), [node], [])) == "2 GPUs have 48.0 GiB, 50.0 GiB asked"
    assert cards(place(demand(gib=6, n_gpu=0.25), [node], [])) == ((0, 0.25),)
    assert cards(place(demand(gib=50, n_gpu=1), [make_node("b", gpus=1)], [])) == ((0, 1.0),), "nobody knows"


def test_a_worker_with_a_card_claims_main_memory_as_well() -> None:
    node = make_node("a", gpus=2, card_gib=24, memory_gib=16)
    offloading = demand(gib=12, host_gib=9, n_gpu="auto")
    first = place(offloading, [node], [])
    assert first == Placement("a", on_card((0, 0.5), gib=12, host_gib=9))
    assert isinstance(first, Placement)
    refused = place(offloading, [node], [Taken("other", "a", first.claim)])
    assert reason(refused) == "7.0 GiB of 16.0 GiB memory free, 9.0 GiB asked"
    assert reason(place(offloading, [node], [], memory_fraction=0.5)) == (
        "8.0 GiB of 8.0 GiB memory free, 9.0 GiB asked"
    )


def test_what_needs_nothing_of_a_card_still_gets_a_part_of_it() -> None:
    assert cards(place(demand(gib=0, n_gpu="auto"), [make_node("a", gpus=1, card_gib=24)], [])) == ((0, 0.01),)


# ----------------------------------------------------------------------------------- how much there could be


def test_the_room_of_main_memory_is_what_may_be_claimed_where_there_is_most_of_it() -> None:
    nodes = [make_node("a", memory_gib=16), make_node("b", memory_gib=12), make_node("head", cpus=0, memory_gib=64)]
    assert room_for(demand(), nodes, [in_memory("a", 8)], memory_fraction=0.5) == 6 * GIB
    assert room_for(demand(worker_ip="a"), nodes, [in_memory("a", 8)]) == 8 * GIB
    assert room_for(demand(), [], []) == 0


def test_the_room_of_cards_is_what_is_free_of_the_freest_or_the_share_that_was_asked_for() -> None:
    nodes = [make_node("cpu", memory_gib=256), make_node("a", gpus=8, card_gib=24), make_node("b", gpus=1, card_gib=16)]
    assert room_for(demand(n_gpu="auto"), nodes, []) == 24 * GIB
    full = [on_cards("a", *((card, 0.75) for card in range(8)))]
    assert room_for(demand(n_gpu="auto"), nodes, full) == 16 * GIB
    assert room_for(demand(n_gpu=0.5), nodes, full) == 12 * GIB
    assert room_for(demand(n_gpu=None), nodes, full) == 256 * GIB
    assert room_for(demand(n_gpu="auto"), [make_node("c", gpus=1)], []) is None


# --------------------------------------------------------------------------------------- where it was asked for


def test_named_cards_are_taken() -> None:
    node = make_node("a", gpus=4)
    assert cards(place(demand(n_gpu="auto", gpu_idx=(3, 1)), [node], [])) == ((3, 1.0), (1, 1.0))
    assert cards(place(demand(n_gpu=0.5, gpu_idx=(2,)), [node], [])) == ((2, 0.5),)


def test_named_cards_that_are_full_refuse() -> None:
    taken = [on_cards("a", (0, 0.75))]
    found = place(demand(n_gpu="auto", gpu_idx=(0, 1)), [make_node("a", gpus=2)], taken)
    assert reason(found) == "0.25 of GPU 0 free, 1 asked"


@pytest.mark.parametrize(("gpu_idx", "absent"), [((2,), 2), ((0, 5), 5), ((-1,), -1)])
def test_named_cards_that_are_not_there_refuse(gpu_idx: tuple[int, ...], absent: int) -> None:
    found = place(demand(n_gpu="auto", gpu_idx=gpu_idx), [make_node("a", gpus=2)], [])
    assert reason(found) == f"has GPUs 0 to 1, not {absent}"


@pytest.mark.parametrize("asked", ["b", "b:30001"])
def test_a_named_node_is_taken(asked: str) -> None:
    nodes = [make_node("a", memory_gib=64), make_node("b")]
    assert place(demand(worker_ip=asked), nodes, []) == Placement("b", Claim(GIB))


def test_other_nodes_than_the_named_one_refuse() -> None:
    found = place(demand(worker_ip="c"), [make_node("a"), make_node("b")], [])
    assert str(found) == "m fits on no node (a: is not c; b: is not c)."


def test_a_launch_goes_to_a_node_with_all_its_labels() -> None:
    nodes = [labelled("a", zone="a"), labelled("b", zone="b", gpu="none"), labelled("c", memory_gib=64)]
    assert place(demand(node_labels="zone=b"), nodes, []) == Placement("b", Claim(GIB))
    assert place(demand(node_labels="zone=b|c,gpu=none"), nodes, []) == Placement("b", Claim(GIB))
    assert place(demand(), nodes, []) == Placement("c", Claim(GIB))
    refused = place(demand(node_labels="zone=a,gpu=none"), nodes, [])
    assert str(refused) == (
        "m fits on no node (a: no label gpu=none; b: no label zone=a; c: no label gpu=none, zone=a)."
    )


def test_many_nodes_without_the_label_are_counted() -> None:
    nodes = [make_node(f"n{number}") for number in range(37)]
    refused = place(demand(node_labels="zone=b"), nodes, [])
    assert str(refused) == "m fits on no node (37 nodes: no label zone=b)."


def test_whether_auto_means_a_card_depends_on_the_nodes_with_the_label() -> None:
    nodes = [replace(make_node("gpu", gpus=1, card_gib=40), labels=(("zone", "a"),)), labelled("cpu", zone="b")]
    assert place(demand(n_gpu="auto", node_labels="zone=b"), nodes, []) == Placement("cpu", Claim(GIB))


def test_a_draining_node_takes_nothing() -> None:
    node = Node("a", "10.0.0.1", 8, 16 * GIB, draining=True)
    assert str(place(demand(), [node], [])) == "m fits on no node (10.0.0.1: draining)."


# --------------------------------------------------------------------------------------------- spread, reasons


def test_replicas_spread_over_nodes_first() -> None:
    nodes = [make_node("a", memory_gib=64), make_node("b", memory_gib=8)]
    first = place(demand(), nodes, [])
    assert first == Placement("a", Claim(GIB))
    assert place(demand(), nodes, [in_memory("a", 1, uid="m")]) == Placement("b", Claim(GIB))


def test_replicas_share_a_node_when_there_is_no_other() -> None:
    assert place(demand(), [make_node("a")], [in_memory("a", 1, uid="m")]) == Placement("a", Claim(GIB))


def test_every_node_says_why_not() -> None:
    nodes = [make_node("a", gpus=2), make_node("b"), make_node("c", gpus=1, cpus=0)]
    found = place(demand(n_gpu=2), nodes, [on_cards("a", (0, 1.0))])
    assert str(found) == (
        "m fits on no node (a: 1 of 2 GPUs free, 2 asked; b: has no GPU; c: holds no models (0 cores))."
    )


def test_a_cluster_without_nodes_says_so() -> None:
    assert str(place(demand(), [], [])) == "m fits on no node (there are no nodes)."


def test_no_room_is_an_error_to_try_again_later() -> None:
    found = place(demand(), [], [])
    assert isinstance(found, NoRoom)
    error = found.error()
    assert isinstance(error, DoesNotFit)
    assert (error.message, error.retry_after_s) == (str(found), 30.0)


def test_a_demand_is_what_the_replica_of_a_wish_needs() -> None:
    wanted = make_wanted("m", replica=2, claim_gib=3, n_gpu="auto", gpu_idx=[0, 1], n_cpu=2)
    place = ReplicaPlace(n_gpu="auto", gpu_idx=(1,))
    as_before = Needs(memory_bytes=0, card_bytes=3 * GIB)
    assert demand_of(wanted, 1, {}) == Demand("m", 3 * GIB, place, 2, as_before), "as an earlier version stored it"
    both = wanted.model_copy(update={"on_card": Needs(memory_bytes=GIB, card_bytes=2 * GIB)})
    assert demand_of(both, 1, {}) == Demand("m", 3 * GIB, place, 2, Needs(memory_bytes=GIB, card_bytes=2 * GIB))


# ------------------------------------------------------------------------------------------------ properties


def a_cluster(dice: random.Random) -> list[Node]:
    return [
        make_node(
            f"n{i}",
            gpus=dice.randint(0, 3),
            cpus=dice.choice([0, 4, 8]),
            memory_gib=dice.choice([4, 8]),
            card_gib=dice.choice([None, 16]),
        )
        for i in range(dice.randint(1, 3))
    ]


@pytest.mark.parametrize("seed", range(100))
def test_nothing_is_ever_claimed_above_what_there_is(seed: int) -> None:
    dice = random.Random(seed)
    nodes = a_cluster(dice)
    taken: list[Taken] = []
    for turn in range(30):
        asked = demand(
            f"m{dice.randint(0, 3)}",
            gib=dice.choice([0.3, 1, 2.7, 5]),
            n_cpu=dice.choice([None, None, 1, 2.5]),
            n_gpu=dice.choice([None, "auto", 0.07, 0.3, 0.5, 1, 2]),
            gpu_idx=dice.choice([None, None, (0,), (1,), (0, 1)]),
        )
        found = place(asked, nodes, taken)
        if isinstance(found, Placement):
            taken.append(Taken(asked.uid, found.node, found.claim))
        else:
            assert [node.ip for node in nodes] == [node for node, _ in found.reasons]
        if dice.random() < 0.3 and taken:
            taken.remove(dice.choice(taken))
        for node in nodes:
            claims = [item.claim for item in taken if item.node == node.id]
            used = Counter[int]()
            for claim in claims:
                used.update(dict(claim.cards))
            assert sum(claim.memory_bytes for claim in claims) <= node.memory_bytes, turn
            assert sum(claim.cpus for claim in claims) <= node.cpus
            assert all(0 <= card < node.gpus and share <= 1 + 1e-6 for card, share in used.items()), used


@pytest.mark.parametrize("seed", range(100))
def test_whole_cards_are_refused_only_when_no_node_has_them(seed: int) -> None:
    dice = random.Random(seed)
    nodes = [make_node(f"n{i}", gpus=dice.randint(0, 4)) for i in range(3)]
    every_card = [(node.id, card) for node in nodes for card in range(node.gpus)]
    full = dice.sample(every_card, dice.randint(0, len(every_card)))
    taken = [on_cards(node, (card, dice.choice([0.2, 1.0]))) for node, card in full]
    for count in (1, 2, 3):
        free_sets = [
            cards
            for node in nodes
            for cards in itertools.combinations(range(node.gpus), count)
            if not any((node.id, card) in full for card in cards)
        ]
        found = place(demand(n_gpu=count), nodes, taken)
        assert isinstance(found, Placement) == bool(free_sets), str(found)


def test_a_node_whose_memory_ran_out_takes_what_fits_into_the_rest() -> None:
    short = replace(make_node("n0"), room_bytes=2 * GIB, room_reason="hog (pid 7) holds most, 9.0 GB")
    assert isinstance(place(demand(gib=2), [short], []), Placement)
    refused = place(demand(gib=3), [short], [])
    assert "its memory ran out, 2.0 GiB left for models, 3.0 GiB asked; hog (pid 7)" in str(refused)


# ------------------------------------------------------------------------------------------- cards of others


UNREAD = replace(make_node("a", gpus=2, card_gib=24), is_unread=True)


@pytest.mark.parametrize("where", [{"n_gpu": "auto"}, {"n_gpu": 1}, {"n_gpu": 0.5}, {"n_gpu": 1, "gpu_idx": (1,)}])
def test_of_cards_of_which_nobody_knows_yet_how_full_they_are_nothing_is_given(where: dict[str, Any]) -> None:
    refused = place(demand(**where), [UNREAD], [])
    assert isinstance(refused, NoRoom) and refused.is_early
    assert str(refused) == "m fits on no node yet (a: how full its cards are is not known yet)."
    assert isinstance(place(demand(**where), [replace(UNREAD, is_unread=False)], []), Placement)


def test_what_needs_no_card_is_placed_beside_cards_that_nobody_has_read() -> None:
    assert place(demand(), [UNREAD], []) == Placement("a", Claim(GIB))


def test_cards_that_were_read_come_before_those_that_were_not() -> None:
    read = make_node("b", gpus=8, card_gib=24)
    assert isinstance(found := place(demand(n_gpu="auto"), [UNREAD, read], []), Placement)
    assert found.node == "b"


def test_where_there_is_no_room_whatever_will_be_read_it_is_not_too_early_to_say_so() -> None:
    refused = place(demand(gib=30, n_gpu="auto"), [UNREAD], [])
    assert isinstance(refused, NoRoom) and not refused.is_early
    assert str(refused) == "m fits on no node (a: a GPU has 24.0 GiB, 30.0 GiB asked)."


def with_foreign(*gib: float, size_gib: float = 24) -> Node:
    """A node whose cards others have so much of."""
    cards = tuple(
        Card(total_bytes=int(size_gib * GIB), used_bytes=0, foreign_bytes=int(taken * GIB), foreign="pid 4711, python")
        for taken in gib
    )
    return replace(make_node("a", gpus=len(cards), card_gib=size_gib), cards=cards)


def test_what_others_have_of_a_card_refuses_and_is_told() -> None:
    node, taken = with_foreign(12), [on_cards("a", (0, 0.38))]
    asked = demand(gib=5, n_gpu="auto")
    assert reason(place(asked, [node], taken)) == (
        "card 0: 24.0 GiB, 9.1 claimed, 12.0 used by others (pid 4711, python): 2.9 free, 5.0 GiB asked"
    )
    assert cards(place(asked, [with_foreign(0)], taken)) == ((0, 0.21),)
    assert room_for(asked, [node], taken) == int(2.88 * GIB)


def test_beside_others_what_fits_is_placed() -> None:
    assert cards(place(demand(gib=11, n_gpu="auto"), [with_foreign(12)], [])) == ((0, 0.46),)
    # A whole card that is asked for by number, and needs less than others leave of it.
    assert cards(place(demand(gib=10, n_gpu=1), [with_foreign(12)], [])) == ((0, 1.0),)
    assert "12.0 used by others" in reason(place(demand(gib=13, n_gpu=1), [with_foreign(12)], []))
    assert "12.0 used by others" in reason(place(demand(gib=13, n_gpu="auto", gpu_idx=(0,)), [with_foreign(12)], []))


def test_a_desktop_is_no_reason_to_refuse_a_whole_card() -> None:
    unknown = Demand("m", 0, ReplicaPlace(n_gpu=1))
    assert cards(place(unknown, [with_foreign(0.5)], [])) == ((0, 1.0),)
    assert "12.0 used by others" in reason(place(unknown, [with_foreign(12)], []))


def test_a_card_that_others_left_alone_is_taken_first() -> None:
    assert cards(place(demand(gib=10, n_gpu="auto"), [with_foreign(20, 0)], [])) == ((1, 0.42),)
    # Of those that do, the tightest: large ones stay free.
    assert cards(place(demand(gib=4, n_gpu="auto"), [with_foreign(0, 19)], [])) == ((1, 0.17),)
    assert reason(place(demand(gib=10, n_gpu=2), [with_foreign(23, 0)], [])).startswith("card 0: 24.0 GiB, 0.0 claimed")


def test_every_slice_has_its_own_size() -> None:
    slices = tuple(Card(uuid=f"MIG-{number}", total_bytes=size * GIB) for number, size in enumerate((20, 10, 5)))
    node = replace(make_node("a", gpus=3, card_gib=5), cards=slices)
    assert cards(place(demand(gib=4, n_gpu="auto"), [node], [])) == ((2, 0.8),)
    assert cards(place(demand(gib=8, n_gpu="auto"), [node], [])) == ((1, 0.8),)
    assert cards(place(demand(gib=12, n_gpu="auto"), [node], [])) == ((0, 0.6),)
    assert reason(place(demand(gib=21, n_gpu="auto"), [node], [])) == "a GPU has 20.0 GiB, 21.0 GiB asked"
    assert cards(place(demand(gib=8, n_gpu=0.5), [node], [])) == ((0, 0.5),)
    assert reason(place(demand(gib=12, n_gpu=0.5), [node], [])) == "0.5 of a GPU has 10.0 GiB, 12.0 GiB asked"
