"""How many samples should go into one pass."""

from __future__ import annotations

import pytest

from deployments.image.saturation import DOUBT_EVERY, LAST, Saturation


def measured(**seconds: float) -> Saturation:
    """Measurements of passes of one shape: `of_4=0.2` means that four samples took 0.2 s."""
    table = Saturation()
    for name, taken in seconds.items():
        for _ in range(2):
            table.observe("shape", int(name.removeprefix("of_")), taken)
    return table


def test_of_an_unknown_shape_two_are_tried() -> None:
    assert Saturation().cap("shape") == 2
    assert Saturation().seconds("shape", 1) == 0.0


def test_the_first_pass_of_a_size_does_not_count() -> None:
    table = Saturation()
    table.observe("shape", 1, 9.0)
    assert table.seconds("shape", 1) == 0.0
    table.observe("shape", 1, 0.1)
    assert table.seconds("shape", 1) == 0.1


@pytest.mark.parametrize(
    ("seconds", "cap"),
    [
        ({"of_1": 0.1}, 2),
        ({"of_1": 0.1, "of_2": 0.11}, 4),
        ({"of_1": 0.1, "of_2": 0.11, "of_4": 0.12, "of_8": 0.14, "of_16": 0.2}, 16),
        # Each further sample costs what it would cost alone.
        ({"of_1": 0.1, "of_2": 0.2}, 1),
        ({"of_1": 0.1, "of_2": 0.12, "of_4": 0.24}, 2),
        # Four are worse than two, eight are better than both.
        ({"of_1": 0.1, "of_2": 0.12, "of_4": 0.25, "of_8": 0.3}, 16),
    ],
)
def test_as_many_as_each_makes_all_cheaper(seconds: dict[str, float], cap: int) -> None:
    assert measured(**seconds).cap("shape") == cap


def test_a_disturbed_pass_changes_nothing_and_a_lasting_change_is_learnt() -> None:
    table = measured(of_1=0.1)
    table.observe("shape", 1, 1.0)
    assert table.seconds("shape", 1) == 0.1
    for _ in range(LAST):
        table.observe("shape", 1, 0.3)
    assert table.seconds("shape", 1) == 0.3


def test_now_and_then_more_are_tried_again() -> None:
    table = measured(of_1=0.1, of_2=0.2)
    asked = [table.cap("shape") for _ in range(2 * DOUBT_EVERY)]
    assert asked.count(2) == 2
    assert asked.count(1) == 2 * DOUBT_EVERY - 2


def test_what_did_not_fit_is_not_tried_again() -> None:
    table = measured(of_1=0.1, of_2=0.11, of_4=0.12)
    table.refuse("shape", 8)
    assert {table.cap("shape") for _ in range(3 * DOUBT_EVERY)} == {4}
    table.refuse("shape", 1)
    assert table.cap("shape") == 1


def test_shapes_are_apart() -> None:
    table = measured(of_1=0.1, of_2=0.2)
    table.refuse("shape", 2)
    assert table.cap("another") == 2
    assert table.table() == [{1: 0.1, 2: 0.2}]
