from __future__ import annotations

from dataclasses import replace

from cluster.cards import Card, CardUser
from cluster.status import Claim
from deployments.ingress.control.card_shapes import card_rows
from tests.make import GIB, make_node


def test_a_card_names_the_models_that_the_caller_may_know_of() -> None:
    users = (
        CardUser(5, "ray::WorkerActor", GIB, (1,), True, "worker:m:1:0-a"),
        CardUser(6, "ray::WorkerActor", GIB, (1,), True, "worker:secret:1:0-b"),
        CardUser(7, "python", None),
    )
    card = Card("X", "GPU-1", 8 * GIB, 4 * GIB, 0.5, users, 2 * GIB, "pid 7, python")
    node = replace(make_node("a", gpus=2, card_gib=8), cards=(card,))
    first, second = card_rows(node, Claim(0, ((0, 0.25), (0, 0.25))), {"worker:m:1:0-a": ("m", 0)})
    assert (first["total"], first["used"], first["claimed"], first["foreign"]) == (8 * GIB, 4 * GIB, 4 * GIB, 2 * GIB)
    assert [(row["model"], row["replica"], row["is_ours"]) for row in first["processes"]] == [
        ("m", 0, True),
        (None, None, True),
        (None, None, False),
    ]
    # Nobody says anything of this one but its size.
    assert (second["name"], second["total"], second["used"], second["load"]) == ("", 8 * GIB, None, None)


def test_a_node_without_cards_has_no_rows() -> None:
    assert card_rows(make_node("a"), Claim()) == []
