"""LoRA adapters as launches name them."""

from __future__ import annotations

from collections.abc import Mapping


def adapters_in(value: object) -> dict[str, str]:
    """`{"name": "path"}`, or Xinference's list of `{"lora_name": …, "local_path": …}`."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return dict(value)
    if not isinstance(value, (list, tuple)) or not all(isinstance(row, Mapping) for row in value):
        raise ValueError("it takes names with paths, or a list of {name, path}")
    rows = [(row.get("name", row.get("lora_name")), row.get("path", row.get("local_path"))) for row in value]
    if any(name is None or path is None for name, path in rows) or len({name for name, _ in rows}) < len(rows):
        raise ValueError("each of the list takes a name of its own and a path")
    return dict(rows)
