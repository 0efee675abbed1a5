"""What an autoscaler is asked to keep room for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster import errors
from cluster.control.growing import CardsWanted, cards_wanted
from cluster.launch import Needs, Wanted
from cluster.status import Node
from tests.cluster.control.fleets import carry_out, fleet, serving
from tests.cluster.control.scenes import M, Scene, play
from tests.make import GIB, make_node, make_wanted

HEAD = make_node("head")
NODE = make_node("n1", gpus=4, card_gib=40)


def on_card(uid: str, gib: float, **fields: object) -> Wanted:
    needs = Needs(memory_bytes=0, card_bytes=int(gib * GIB))
    return make_wanted(uid, claim_gib=1000, n_gpu="auto", **fields).model_copy(update={"on_card": needs})


def asked(*wanted: Wanted, nodes: tuple[Node, ...] = (HEAD,)) -> list[int]:
    return counts(with_labels(*wanted, nodes=nodes))


def with_labels(*wanted: Wanted, nodes: tuple[Node, ...] = (HEAD,)) -> list[CardsWanted]:
    waiting = fleet(*wanted, nodes=nodes)
    carry_out(waiting, 0.0)
    return cards_wanted(waiting)


def counts(asked_for: list[CardsWanted]) -> list[int]:
    return [one.cards for one in asked_for]


def test_ten_models_on_a_twentieth_of_a_card_each_are_one_card() -> None:
    small = [on_card(f"m{number}", 2) for number in range(10)]
    running = serving(*small, nodes=[NODE])
    assert {w.claim.cards for w in running.workers.values()} == {((0, 0.05),)}
    assert counts(cards_wanted(running)) == [1]
    assert asked(*(make_wanted(f"m{number}", n_gpu=0.05) for number in range(10))) == [1]
    assert asked(*small, nodes=(make_node("full", gpus=1, card_gib=40, cpus=0),)) == [1]


def test_what_does_not_fit_onto_one_card_asks_for_another() -> None:
    assert asked(*(make_wanted(f"m{number}", n_gpu=0.6) for number in range(3))) == [1, 1, 1]
    assert asked(*(make_wanted(f"m{number}", n_gpu=share) for number, share in enumerate((0.6, 0.4, 0.5)))) == [1, 1]


def test_cards_that_have_to_be_on_one_node_are_asked_for_together() -> None:
    assert asked(make_wanted(n_gpu=2, replica=2), make_wanted("one", n_gpu=1)) == [2, 2, 1]
    assert asked(make_wanted(n_gpu="auto", gpu_idx=[0, 1])) == [2]


def test_models_that_run_go_on_asking_or_their_node_would_go() -> None:
    running = serving(make_wanted("a", n_gpu=2), make_wanted("b", n_gpu=0.5, replica=2), nodes=[NODE])
    assert counts(cards_wanted(running)) == [2, 1]
    running.want(make_wanted("c", n_gpu=1, replica=3))
    carry_out(running, 0.0)
    assert counts(cards_wanted(running)) == [2, 1, 1, 1, 1], "one of them runs, and two wait"


def test_without_any_card_nobody_knows_a_share_and_the_first_node_tells() -> None:
    big = [on_card(f"m{number}", 30) for number in range(3)]
    assert asked(*big) == [1]
    assert asked(*big, nodes=(HEAD, make_node("n1", gpus=1, card_gib=40))) == [1, 1, 1]
    assert asked(*big, nodes=(HEAD, make_node("n1", gpus=1))) == [1, 1, 1], "of a card that says nothing each has one"


def test_models_on_cpu_ask_for_nothing() -> None:
    assert asked(make_wanted(claim_gib=1000)) == []
    assert cards_wanted(serving(make_wanted(n_gpu="auto"), nodes=[HEAD])) == []
    assert cards_wanted(serving(nodes=[HEAD])) == []


def test_cards_are_asked_for_with_the_labels_of_their_nodes() -> None:
    apart = [make_wanted(f"m{number}", n_gpu=0.4, node_labels=f"zone={zone}") for number, zone in enumerate("aabb")]
    assert with_labels(*apart, make_wanted("whole", n_gpu=2)) == [(2, ()), (1, ("zone=b",)), (1, ("zone=a",))]
    assert with_labels(make_wanted(gpu_idx=[0, 1], n_gpu=1, node_labels="gpu=a100")) == [(2, ("gpu=a100",))]


def test_models_that_run_keep_the_node_with_their_labels() -> None:
    node = replace(NODE, labels=(("gpu", "a100"), ("zone", "b")))
    sharing = [make_wanted("a", n_gpu=0.5, node_labels="zone=b"), make_wanted("b", n_gpu=0.5, node_labels="gpu=a100")]
    running = serving(*sharing, make_wanted("c", n_gpu=2, node_labels="zone=b"), nodes=[node])
    assert cards_wanted(running) == [(2, ("zone=b",)), (1, ("gpu=a100", "zone=b"))]


def test_what_a_card_has_is_told_by_the_nodes_that_have_the_label() -> None:
    other = replace(make_node("n1", gpus=1, card_gib=40), labels=(("zone", "a"),))
    big = [on_card(f"m{number}", 30, node_labels="zone=b") for number in range(2)]
    assert with_labels(*big, nodes=(HEAD, other)) == [(1, ("zone=b",))]


# ------------------------------------------------------------------------------------------- a launch that waits


def test_a_launch_waits_for_a_node_where_an_autoscaler_asks_for_cards() -> None:
    async def scene(s: Scene) -> None:
        with pytest.raises(errors.DoesNotFit):
            await s.launch(make_wanted(n_gpu=1))
        assert await s.supervisor.cards_wanted() == []
        await s.launch(make_wanted(n_gpu=1))
        status = await s.state(M.WAITING)
        assert "2 nodes" in status.reason or "has no GPU" in status.reason
        assert counts(await s.supervisor.cards_wanted()) == [1]
        s.world.there.append(make_node("new", gpus=1))
        await s.state(M.READY)
        assert counts(await s.supervisor.cards_wanted()) == [1]
        with pytest.raises(errors.DoesNotFit):
            await s.launch(make_wanted("cpu", claim_gib=1000))
        with pytest.raises(errors.DoesNotFit):
            await s.launch(make_wanted("there", n_gpu=1, worker_ip="n0"))
        s.world.clock_ahead += 31
        with pytest.raises(errors.DoesNotFit):
            await s.launch(make_wanted("late", n_gpu=1))

    play(scene, make_room=False)
