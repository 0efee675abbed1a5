from __future__ import annotations

import time

import pytest

from cluster.names import LONGEST, MOST_LIKELY, cut, likely, nearest, quoted


def test_the_nearest_names_come_best_first() -> None:
    assert nearest("minilm-l6", ["bge-m3", "minilm-l12", "minilm-l6-v2"], 2) == ["minilm-l6-v2", "minilm-l12"]
    assert nearest("nothing alike", ["bge-m3"]) == []


def test_a_short_name_is_repeated_whole_and_a_long_one_cut() -> None:
    assert cut("bge-m3") == "bge-m3"
    assert cut("x" * 1000) == "x" * LONGEST + "…"
    assert quoted("it's") == '"it\'s"'
    assert quoted(5) == "5" and quoted([]) == "[]"


@pytest.mark.parametrize("value", ["x" * 10_000_000, ["x" * 1000] * 1000, {"a": {"b": list(range(100_000))}}, 10**90])
def test_a_huge_value_is_repeated_shortly_and_at_once(value: object) -> None:
    began = time.perf_counter()
    assert len(quoted(value)) <= LONGEST + 1
    assert time.perf_counter() - began < 0.05


def test_looking_for_near_names_takes_a_bounded_time() -> None:
    alike = [f"{'x' * 95}{number:05d}" for number in range(20_000)]
    began = time.perf_counter()
    assert nearest("x" * 40_000_000, alike) == [], "nobody mistyped that"
    nearest("x" * 95 + "abc", alike, 5)
    assert time.perf_counter() - began < 0.5


def test_of_ten_thousand_names_those_that_begin_or_end_alike_are_compared() -> None:
    names = sorted([f"model-{number:05}" for number in range(10_000)] + ["minilm", "zebra"])
    for asked, meant in (("modle-00017", "model-00017"), ("model-0451", "model-04510"), ("minilm2", "minilm")):
        chosen = likely(asked, names)
        assert len(chosen) <= MOST_LIKELY
        assert meant in chosen
    assert nearest("modle-00017", likely("modle-00017", names), 5)[0] == "model-00017"
    assert likely("a", ["b", "c"]) == ["b", "c"]
