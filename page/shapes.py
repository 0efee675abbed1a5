"""Writes the types of the page, `src/server/shapes.ts`, from the types that the server answers with.

Renaming a field at the server is an error of the page's compiler then, at the line that reads it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from deployments.ingress.control.changes import Changes
from deployments.ingress.control.keys import CreatedKey, KeyRow
from deployments.ingress.control.live_shapes import LiveChange
from deployments.ingress.control.options import CatalogueRow, LaunchOptions
from deployments.ingress.control.plan import FitBody
from deployments.ingress.control.requests import RequestRows
from deployments.ingress.control.series import ModelSeries
from deployments.ingress.control.session import WhoAmI
from deployments.ingress.control.shapes import CachedRow, EventRow, PastEvent
from deployments.ingress.control.topics import LiveEvents, LivePaces
from deployments.ingress.jobs import JobRow, RequestProgressBody
from deployments.ingress.log_lines import LiveLines

PLACE = Path(__file__).parent / "src" / "server" / "shapes.ts"
HEAD = "// Made by page/shapes.py of the server's own types; `make page` writes it again.\n"
ANSWERS = (
    LiveChange,
    FitBody,
    Changes,
    EventRow,
    PastEvent,
    CachedRow,
    KeyRow,
    CreatedKey,
    WhoAmI,
    CatalogueRow,
    LaunchOptions,
    JobRow,
    RequestRows,
    RequestProgressBody,
    ModelSeries,
    LivePaces,
    LiveEvents,
    LiveLines,
)
PLAIN = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}


def type_of(schema: dict[str, Any]) -> str:
    """A JSON schema as TypeScript writes it."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " | ".join(type_of(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(f'"{choice}"' for choice in schema["enum"])
    match schema.get("type"):
        case "array":
            return f"readonly ({type_of(schema.get('items', {}))})[]"
        case "object" if "properties" in schema:
            return fields_of(schema)
        case "object":
            values = schema.get("additionalProperties")
            return f"Readonly<Record<string, {type_of(values) if isinstance(values, dict) else 'unknown'}>>"
    return PLAIN.get(schema.get("type", ""), "unknown")


def fields_of(schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    lines = [
        f"  readonly {name}{'' if name in required else '?'}: {type_of(field)};"
        for name, field in schema["properties"].items()
    ]
    return "\n".join(("{", *lines, "}"))


def text() -> str:
    types: dict[str, str] = {}
    for answer in ANSWERS:
        schema = TypeAdapter(answer).json_schema(mode="serialization")
        types |= {name: fields_of(part) for name, part in schema.pop("$defs", {}).items()}
        types[answer.__name__] = fields_of(schema)
    return HEAD + "".join(f"\nexport type {name} = {types[name]};\n" for name in sorted(types))


if __name__ == "__main__":
    PLACE.write_text(text())
    sys.exit()
