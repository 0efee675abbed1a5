from __future__ import annotations

from typing import Any

import pytest

from cluster.control import newer
from tests.make import make_wanted


def stored(**changes: Any) -> dict[str, Any]:
    return {**make_wanted("m", replica=2, generation=7).model_dump(mode="json"), **changes}


def test_a_wish_of_this_version_is_read_as_a_whole() -> None:
    assert newer.read("m", stored()) == (make_wanted("m", replica=2, generation=7), "")


def test_unknown_fields_are_named_and_the_rest_is_read() -> None:
    row = stored(colour="red")
    row["spec"]["shade"] = {"dark": True}
    row["entry"]["sources"][0]["mirror"] = "there"
    before = repr(row)
    wanted, why = newer.read("m", row)
    assert wanted == make_wanted("m", replica=2, generation=7)
    assert why.startswith(
        "It was launched by a newer version and this one cannot read spec.shade, entry.sources.0.mirror, colour: "
    )
    assert repr(row) == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"generation": "seven"}, "generation"),
        ({"spec": {"model_name": "n", "replica": "many"}}, "spec.replica"),
        ({"spec": "n"}, "spec"),
        ({"family": None, "colour": "red"}, "colour, family"),
        ({"uid": "other"}, "uid"),
    ],
)
def test_what_means_something_else_today_leaves_enough_to_be_listed(changes: dict[str, Any], named: str) -> None:
    wanted, why = newer.read("m", stored(**changes))
    assert f"cannot read {named}: " in why
    assert (wanted.uid, wanted.entry.name, wanted.abilities) == ("m", "m", ("infer",))


@pytest.mark.parametrize("row", ["{", None, 7, [], "x" * 100_000])
def test_a_damaged_row_is_a_model_that_can_be_terminated(row: Any) -> None:
    wanted, why = newer.read("m", row)
    assert (wanted.uid, wanted.replica, wanted.generation) == ("m", 1, 0)
    assert why == "What is stored of it is damaged; terminate the model and launch it again."


@pytest.mark.parametrize("row", [{}, {"spec": {}}, {"spec": {"model_name": 3}, "abilities": [1]}, {"generation": None}])
def test_hardly_anything_is_enough(row: dict[str, Any]) -> None:
    assert newer.read("m", row)[0].uid == "m"
