"""Custom models, as registrations of ours and of Xinference say them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from cluster import errors
from cluster.catalog.catalog import _checked_source, _names, documents, entry_of
from cluster.catalog.entry import Entry
from cluster.names import UID_PATTERN, nearest, quoted

_HUBS = ("huggingface", "modelscope")
#: What a registration says of where the weights are; a flat one says it beside the name.
_PLACE = (
    *("model_specs", "model_src", "model_uri", "model_id", "model_revision", "model_hub"),
    *("model_format", "model_file_name_template", "quantization", "quantizations"),
)
#: What Xinference's listing says of a model beyond its family, and its files may therefore carry.
_BOOKKEEPING = ("version", "is_builtin", "updated_at", "featured", "virtualenv", "cache_status", "download_hubs")
#: Fields of an entry that have the same name in a registration.
_SHARED = (
    *("family", "aliases", "max_tokens", "licence", "gated", "remote_code"),
    *("weight_bytes", "description", "options"),
)


def parse_registration(type: str, text: str, *, family: str = "") -> Entry:
    """A custom entry from Xinference's registration JSON or a catalogue row in TOML.

    `family` is for rows that name none, where the type has no file here.
    """
    type = type.lower()
    if type not in documents() and not family:
        raise errors.BadRequest(
            f"No model type is called {quoted(type)}; there are {', '.join(documents())}.", "model_type"
        )
    row = _xinference_row(text) if text.lstrip().startswith("{") else _toml_row(text)
    if row.pop("type", type) != type:
        raise errors.BadRequest(f"The registration is of another type than {type}; send it to that type.", "model_type")
    entry = entry_of(type, {"family": family, **row, "builtin": False} if family else {**row, "builtin": False})
    for name in _names(entry):
        if not UID_PATTERN.fullmatch(name):
            raise errors.BadRequest(
                f"A model cannot be called {quoted(name)}: a name takes up to 100 letters, digits, '.', '_' and '-', "
                "beginning with a letter or digit."
            )
    return entry.model_copy(update={"sources": tuple(_checked_source(entry.name, source) for source in entry.sources)})


def to_registration(entry: Entry) -> dict[str, Any]:
    """The entry as Xinference lists it; `parse_registration` reads it again, packages aside."""
    specs = [
        {
            "model_format": source.format,
            "model_hub": source.hub,
            "model_id": None if source.hub == "local" else source.id,
            "model_revision": source.revision,
            "model_uri": f"file://{quote(source.id)}" if source.hub == "local" else None,
            "quantization": quantization,
            **({"model_file_name_template": source.path} if source.path else {}),
        }
        for source in entry.sources
        for quantization in source.quantizations
    ]
    return {
        **entry.facts,
        **entry.model_dump(mode="json", include=set(_SHARED)),
        "version": 2,
        "model_name": entry.name,
        "language": list(entry.languages),
        "model_specs": specs,
        "is_builtin": entry.builtin,
    }


def _toml_row(text: str) -> dict[str, Any]:
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise errors.BadRequest(f"The registration is neither a JSON object nor TOML: {error}.") from None
    rows = document.get("model")
    if document.keys() != {"model"} or not isinstance(rows, list) or len(rows) != 1 or not isinstance(rows[0], dict):
        raise errors.BadRequest("A registration in TOML is exactly one [[model]] table.")
    return rows[0]


def _xinference_row(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise errors.BadRequest(f"The registration is not JSON: {error}.") from None
    document = {key: value for key, value in document.items() if value is not None}
    if "model_name" not in document:
        raise errors.BadRequest("The registration has no model_name.")
    if document.get("version", 2) not in (1, 2):
        raise errors.BadRequest(f"A registration of version {quoted(document['version'])} is not known; 1 and 2 are.")

    read_here = ("model_name", "language", *_PLACE, *_BOOKKEEPING, *_SHARED)
    # What is left is for the model's own type to read.
    facts = {key: value for key, value in document.items() if key not in read_here}
    for key in facts.keys() - {"dimensions"}:
        if near := nearest(key, ("dimensions", *read_here), cutoff=0.85):
            raise errors.BadRequest(f"The registration has {quoted(key)}; did you mean {near[0]!r}?")
    language = document.get("language", ())
    return {
        **{key: document[key] for key in _SHARED if key in document},
        "name": document["model_name"],
        "languages": (language,) if isinstance(language, str) else language,
        "facts": facts,
        "sources": list(_xinference_sources(document)),
    }


def _xinference_sources(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    specs = document.get("model_specs") or [document]
    if not isinstance(specs, list) or not all(isinstance(spec, dict) for spec in specs):
        raise errors.BadRequest("model_specs takes a list of objects.")
    for spec in specs:
        if places := spec.get("model_src"):
            if not isinstance(places, dict) or not all(isinstance(place, dict) for place in places.values()):
                raise errors.BadRequest("model_src takes an object with one object per hub.")
            # Hubs that are not known here are alternatives to those that are.
            for hub in [hub for hub in _HUBS if hub in places] or list(places):
                yield _xinference_source({**spec, **places[hub], "model_hub": hub})
        else:
            yield _xinference_source(spec)


def _xinference_source(place: dict[str, Any]) -> dict[str, Any]:
    uri = place.get("model_uri")
    hub = "local" if uri else place.get("model_hub") or "huggingface"
    if not (uri or place.get("model_id")):
        raise errors.BadRequest("The registration does not say where the weights are; give a model_uri or a model_id.")
    if hub not in ("local", *_HUBS):
        raise errors.BadRequest(
            f"Weights do not come from {quoted(hub)}; model_hub takes {' or '.join(_HUBS)}.", "model_hub"
        )
    return {
        "hub": hub,
        "id": uri or place["model_id"],
        "revision": None if uri else place.get("model_revision"),
        "path": place.get("model_file_name_template") or "",
        "format": place.get("model_format") or "pytorch",
        "quantizations": place.get("quantizations") or [place.get("quantization") or "none"],
    }
