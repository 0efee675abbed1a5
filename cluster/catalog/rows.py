"""Rows of the catalogue: reads the TOML files beside it, and makes a row a checked entry."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import resources

from pydantic import ValidationError

from cluster import errors
from cluster.catalog.entry import Entry
from cluster.names import quoted
from cluster.value import JsonObject


@cache
def documents() -> dict[str, JsonObject]:
    """Each file's content by model type; keys beside `model` are defaults for its rows."""
    files = {file.name: file for file in resources.files("cluster.catalog").iterdir() if file.name.endswith(".toml")}
    return {name.removesuffix(".toml"): tomllib.loads(files[name].read_text("utf-8")) for name in sorted(files)}


def builtin_entries() -> Iterator[Entry]:
    for type, document in documents().items():
        for row in document["model"]:
            yield entry_of(type, row)


def entry_of(type: str, row: JsonObject) -> Entry:
    """A checked entry, made of one row and its file's defaults."""
    name = row.get("name", "without a name")
    document = documents().get(type, {})
    defaults = {key: value for key, value in document.items() if key not in ("model", "quantizations")}
    facts = row.get("facts", {})
    if not isinstance(facts, dict):
        raise errors.BadRequest(f"The {type} model {quoted(name)}: facts takes a table, not {quoted(facts)}.")
    fields = {**defaults, **row, "type": type, "facts": {**defaults.get("facts", {}), **facts}}
    if isinstance(sources := fields.get("sources"), list):
        lists = document.get("quantizations", {})
        fields["sources"] = [_with_quantizations(source, lists) for source in sources]
    for key, value in (("max_tokens", fields.get("max_tokens")), ("dimensions", fields["facts"].get("dimensions"))):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise errors.BadRequest(
                f"The {type} model {quoted(name)}: {key} takes a whole number above 0, not {quoted(value)}."
            )
    try:
        entry = Entry.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise errors.BadRequest(f"The {type} model {quoted(name)}: {where}: {first['msg']}.") from None
    if not entry.sources or not all(source.quantizations for source in entry.sources):
        raise errors.BadRequest(f"The {type} model {quoted(name)}: it needs a source, and each source a quantization.")
    return entry


def _with_quantizations(source: object, lists: JsonObject) -> object:
    """Lists that several sources have in common stand above the rows of a file, by a name."""
    if not isinstance(source, dict):
        return source
    name = source.get("quantizations")
    return {**source, "quantizations": lists[name]} if isinstance(name, str) and name in lists else source
