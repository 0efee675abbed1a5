"""Lists of several cells as one."""

from __future__ import annotations

from deployments.gateway.merging import merged, room


def test_models_are_listed_once_with_all_their_cells() -> None:
    lists = {"a": {"data": [{"id": "m", "x": 1}, {"id": "n"}]}, "b": {"data": [{"id": "m", "x": 2}]}}
    assert merged("/v1/models", lists) == {
        "object": "list",
        "data": [{"id": "m", "x": 1, "cells": ["a", "b"]}, {"id": "n", "cells": ["a"]}],
    }


def test_rows_of_other_lists_say_their_cell() -> None:
    assert merged("/v1/statuses", {"a": [{"uid": "m"}], "b": [{"uid": "m"}]}) == [
        {"uid": "m", "cell": "a"},
        {"uid": "m", "cell": "b"},
    ]


def test_events_of_all_cells_stay_in_their_order_the_newest_first() -> None:
    lists = {"a": [{"id": 9, "event_ts": 5}, {"id": 8, "event_ts": 5}], "b": [{"id": 1, "event_ts": 6}]}
    assert [(row["cell"], row["id"]) for row in merged("/v1/events", lists)] == [("b", 1), ("a", 9), ("a", 8)]


def test_cards_count_before_memory() -> None:
    def node(cards: float, memory: int) -> dict[str, float]:
        return {"gpu_count": 8, "gpu_claimed": 8 - cards, "mem_total": 100, "mem_claimed": 100 - memory}

    assert room([node(1, 10), node(0.5, 20)]) == (1.5, 30)
    assert room([node(1, 0)]) > room([node(0, 100), node(0, 100)])
