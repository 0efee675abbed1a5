from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cluster import errors
from cluster.suspicion import FEW, MOST_POISON, POISON_S, SUSPECT_S, Suspicion, fingerprint_of

CROWD = [f"call {n}" for n in range(FEW + 1)]


def is_refused(suspicion: Suspicion, call: str, now: float) -> bool:
    try:
        suspicion.refuse(call, "m", now)
    except errors.PoisonRequest:
        return True
    return False


def test_equal_calls_have_equal_fingerprints_whatever_they_are_made_of() -> None:
    same = fingerprint_of("embed", ["a", b"\x00", {"image": b"x"}], {"b": 1, "a": [None, 1.5]})
    assert same == fingerprint_of("embed", ["a", b"\x00", {"image": b"x"}], {"a": [None, 1.5], "b": 1})
    assert fingerprint_of("embed", [np.ones(3)], {}) == fingerprint_of("embed", [np.ones(3)], {})


@pytest.mark.parametrize(
    "other",
    [
        ("rerank", ["ab"], {}),
        ("embed", ["a", "b"], {}),
        ("embed", ["ab"], {"n": 1}),
        ("embed", [["ab"]], {}),
        ("embed", ["ab", ""], {}),
        ("embed", ["\ud800"], {}),
        ("embed", [np.ones(2)], {}),
    ],
)
def test_calls_that_differ_have_other_fingerprints(other: tuple[Any, ...]) -> None:
    assert fingerprint_of(*other) != fingerprint_of("embed", ["ab"], {})


def test_few_suspects_go_alone_at_once() -> None:
    suspicion = Suspicion()
    suspicion.died("w1", ["a", "b"], 0.0)
    assert suspicion.goes_alone("a", 0.0) and suspicion.goes_alone("b", 0.0)
    assert not suspicion.goes_alone("c", 0.0)


def test_many_suspects_are_sent_again_together_and_go_alone_after_a_second_death() -> None:
    suspicion = Suspicion()
    suspicion.died("w1", CROWD, 0.0)
    assert not any(suspicion.goes_alone(call, 0.0) for call in CROWD)
    suspicion.died("w2", [*CROWD, "new"], 1.0)
    assert all(suspicion.goes_alone(call, 1.0) for call in CROWD)
    assert not suspicion.goes_alone("new", 1.0)


def test_what_takes_long_is_not_tried_alone_for_one_death() -> None:
    suspicion = Suspicion()
    suspicion.died("w1", ["picture"], 0.0, are_short=False)
    assert not suspicion.goes_alone("picture", 0.0)


def test_one_death_counts_once_however_often_it_is_told() -> None:
    suspicion = Suspicion()
    suspicion.died("w1", CROWD, 0.0)
    suspicion.died("w1", CROWD[:2], 0.0)
    assert not suspicion.goes_alone(CROWD[0], 0.0)


def test_whoever_was_answered_is_cleared() -> None:
    suspicion = Suspicion()
    suspicion.died("w1", ["a", "b"], 0.0)
    suspicion.answered("a")
    assert not suspicion.goes_alone("a", 0.0) and suspicion.goes_alone("b", 0.0)
    suspicion.answered("b")
    assert suspicion.is_over(0.0)


def test_calls_of_a_worker_that_was_only_slow_are_no_suspects() -> None:
    suspicion = Suspicion()
    suspicion.died("slow", ["a"], 0.0)
    suspicion.survived("slow")
    suspicion.survived("never heard of")
    assert not suspicion.goes_alone("a", 0.0) and suspicion.is_over(0.0)


def test_with_the_poison_known_the_others_are_cleared_and_its_deaths_are_told() -> None:
    suspicion = Suspicion()
    suspicion.died("w1", ["a", "poison"], 0.0)
    suspicion.died("other", ["b"], 0.0)
    assert suspicion.died_alone("w2", "poison", 1.0) == ["w1", "w2"]
    assert not suspicion.goes_alone("a", 1.0) and suspicion.goes_alone("b", 1.0)


def test_poison_is_refused_for_minutes_and_then_tried_again() -> None:
    suspicion = Suspicion()
    suspicion.died_alone("w1", "poison", 0.0)
    assert is_refused(suspicion, "poison", POISON_S - 1) and not is_refused(suspicion, "other", 1.0)
    assert not is_refused(suspicion, "poison", POISON_S)
    assert not suspicion.is_over(POISON_S - 1) and suspicion.is_over(POISON_S)


def test_hearing_of_poison_again_does_not_refuse_it_for_longer() -> None:
    suspicion = Suspicion()
    suspicion.remember("poison", 0.0)
    suspicion.remember("poison", POISON_S - 1)
    assert not is_refused(suspicion, "poison", POISON_S)


def test_suspicion_ends_by_itself() -> None:
    suspicion = Suspicion()
    suspicion.died("w1", ["a"], 0.0)
    assert not suspicion.goes_alone("a", SUSPECT_S) and suspicion.is_over(SUSPECT_S)


def test_the_memory_is_bounded() -> None:
    suspicion = Suspicion()
    for n in range(MOST_POISON + 5):
        suspicion.remember(f"p{n}", 0.0)
    assert not is_refused(suspicion, "p4", 1.0) and is_refused(suspicion, "p5", 1.0)


def test_the_refusal_says_what_happened_and_what_to_do() -> None:
    suspicion = Suspicion()
    suspicion.remember("poison", 0.0)
    with pytest.raises(errors.PoisonRequest, match=r"poison for m: .* refused for another 290 s, so change") as caught:
        suspicion.refuse("poison", "m", 10.0)
    assert caught.value.status == 422 and not caught.value.retryable
