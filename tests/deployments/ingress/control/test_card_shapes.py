from __future__ import annotations

from dataclasses import replace

from cluster.cards import Card, CardUser
from cluster.keys import Key
from cluster.status import Claim
from deployments.ingress.control.card_shapes import card_rows
from tests.make import GIB, make_node

USERS = (
    CardUser(5, "ray::WorkerActor", GIB, (1,), True, "worker:m:1:0-a"),
    CardUser(6, "ray::WorkerActor", GIB, (1,), True, "worker:secret:1:0-b"),
    CardUser(7, "python", None),
)
CARD = Card("X", "GPU-1", 8 * GIB, 4 * GIB, 0.5, USERS, 2 * GIB, "pid 7, python")


def test_a_card_names_the_models_that_the_caller_may_know_of() -> None:
    node = replace(make_node("a", gpus=2, card_gib=8), cards=(CARD,))
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


def limited(*models: str) -> Key:
    return Key(id="k", name="k", digest="d", scopes=("list",), models=models)


def test_a_key_for_some_models_is_told_of_their_processes_and_of_the_rest_as_one_sum() -> None:
    node = replace(make_node("a", gpus=1, card_gib=8), cards=(CARD,))
    unlimited = limited().model_copy(update={"models": None})
    assert card_rows(node, Claim(), key=unlimited) == card_rows(node, Claim())
    (row,) = card_rows(node, Claim(), {"worker:m:1:0-a": ("m", 0)}, limited("m"))
    assert (row["used"], row["foreign"], row["foreign_by"]) == (4 * GIB, 2 * GIB, "")
    assert [(each["pid"], each["name"], each["bytes"], each["model"]) for each in row["processes"]] == [
        (5, "ray::WorkerActor", GIB, "m"),
        (None, "", GIB, None),
    ]
    strangers = replace(CARD, users=USERS[2:])
    (row,) = card_rows(replace(node, cards=(strangers,)), Claim(), key=limited())
    assert [(each["pid"], each["bytes"]) for each in row["processes"]] == [(None, None)]
    (row,) = card_rows(replace(node, cards=(replace(CARD, users=USERS[:1]),)), Claim(), key=limited("m"))
    assert [each["pid"] for each in row["processes"]] == [5]
