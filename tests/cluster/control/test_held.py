from __future__ import annotations

import random

import pytest

from cluster.control.held import NOTHING, Taken, totals
from cluster.status import Claim
from tests.make import GIB


def test_the_workers_of_a_node_are_added_up() -> None:
    taken = [Taken("a", "n0", Claim(GIB, ((0, 0.5),), 2.0)), Taken("b", "n0", Claim(GIB, ((0, 0.25), (1, 1.0))))]
    (held,) = totals(taken).values()
    assert (held.memory_bytes, held.cpus, dict(held.cards)) == (2 * GIB, 2.0, {0: 0.75, 1: 1.0})
    assert [held.free_share(card) for card in range(3)] == [0.25, 0.0, 1.0]


@pytest.mark.parametrize("seed", range(5))
def test_what_comes_and_goes_leaves_nothing_behind(seed: int) -> None:
    dice = random.Random(seed)
    held, claims = NOTHING, []
    for _ in range(5000):
        claims.append(Claim(dice.randint(0, GIB), ((dice.randint(0, 7), dice.random() / 3),), dice.random()))
        held = held.plus(claims[-1])
        if dice.random() < 0.5:
            held = held.minus(claims.pop(dice.randrange(len(claims))))
    for claim in claims:
        held = held.minus(claim)
    assert held.memory_bytes == 0
    assert abs(held.cpus) < 1e-3
    assert all(held.free_share(card) == pytest.approx(1.0, abs=1e-3) for card in range(8))
