"""One list of those of several cells; and which cell has most room for a launch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.value import JsonObject

#: What a merged row says of the cells that it is of.
CELL = "cell"
CELLS = "cells"


def merged(path: str, lists: Mapping[str, Any]) -> JsonObject | list[JsonObject]:
    """`lists`: by cell, what it answered at the path."""
    if path in ("/v1/models", "/models"):
        return {"object": "list", "data": _by_id({cell: body["data"] for cell, body in lists.items()})}
    every = [{**row, CELL: cell} for cell, rows in lists.items() for row in rows]
    if path == "/v1/events":
        # The sort keeps the order of those of one cell.
        return sorted(every, key=lambda row: row["event_ts"], reverse=True)
    return every


def _by_id(lists: Mapping[str, list[JsonObject]]) -> list[JsonObject]:
    """Each model once: its id is what clients tell models apart by."""
    rows: dict[str, JsonObject] = {}
    for cell, models in lists.items():
        for model in models:
            row = rows.setdefault(model["id"], {**model, CELLS: []})
            row[CELLS].append(cell)
    return list(rows.values())


def room(nodes: list[JsonObject]) -> tuple[float, int]:
    """Free cards and free bytes of a cell, all its nodes together."""
    return (
        sum(node["gpu_count"] - node["gpu_claimed"] for node in nodes),
        sum(node["mem_total"] - node["mem_claimed"] for node in nodes),
    )
