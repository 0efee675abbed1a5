"""Registrations of custom models: our rows in TOML, and Xinference's JSON."""

from __future__ import annotations

import json
import logging
import tomllib
from collections.abc import Iterator
from urllib.parse import quote

from cluster import errors
from cluster.catalog.entry import Entry, xinference_size
from cluster.catalog.rows import documents, entry_of
from cluster.catalog.sources import checked_source
from cluster.names import UID_PATTERN, nearest, quoted
from cluster.value import JsonObject

log = logging.getLogger("cluster.catalog.registrations")

_HUBS = ("huggingface", "modelscope")
#: The fields that say where the weights are, in a list of specs or, if it is flat, beside the name.
_PLACE = (
    *("model_specs", "model_src", "model_uri", "model_id", "model_revision", "model_hub"),
    *("model_format", "model_file_name_template", "quantization", "quantizations", "model_size_in_billions"),
)
#: Fields of Xinference's listing that its registration files may carry and that are ignored here.
_BOOKKEEPING = ("version", "is_builtin", "updated_at", "featured", "virtualenv", "cache_status", "download_hubs")
#: Fields of an entry that have the same name in a registration.
_SHARED = (
    *("family", "aliases", "max_tokens", "licence", "gated", "remote_code"),
    *("weight_bytes", "description", "options"),
)


def parse_registration(type: str, text: str, *, family: str = "") -> Entry:
    """A custom entry from Xinference's registration JSON or a catalogue row in TOML.

    `family` is for rows that name none, of a type that has no TOML file here.
    """
    type = type.lower()
    if type not in documents() and not family:
        raise errors.BadRequest(
            f"No model type is called {quoted(type)}; there are {', '.join(documents())}.", "model_type"
        )
    row = _xinference_row(text) if text.lstrip().startswith("{") else _toml_row(text)
    if row.pop("type", type) != type:
        raise errors.BadRequest(f"The registration is not of type {type}; send it to its own type.", "model_type")
    has_usual = "family" in documents().get(type, {})
    usual = {"family": family} if family and not has_usual else {}
    entry = entry_of(type, {**usual, **row, "builtin": False})
    for name in entry.names:
        if not UID_PATTERN.fullmatch(name):
            raise errors.BadRequest(
                f"A model cannot be called {quoted(name)}: a name takes up to 100 letters, digits, '.', '_' and '-', "
                "beginning with a letter or digit."
            )
    return entry.model_copy(update={"sources": tuple(checked_source(entry.name, source) for source in entry.sources)})


def to_registration(entry: Entry) -> JsonObject:
    """The entry as Xinference lists it; `parse_registration` reads it back, unless its weights are in a package."""
    specs = [
        {
            "model_format": source.format,
            "model_hub": source.hub,
            "model_id": None if source.hub == "local" else source.id,
            "model_revision": source.revision,
            "model_uri": f"file://{quote(source.id)}" if source.hub == "local" else None,
            "quantization": source.quantizations[0],
            **({"model_size_in_billions": xinference_size(source.size)} if source.size else {}),
            **({"model_file_name_template": source.path} if source.path else {}),
        }
        for row in entry.sources
        for source in row.variants()
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


def _toml_row(text: str) -> JsonObject:
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise errors.BadRequest(f"The registration is neither a JSON object nor TOML: {error}.") from None
    rows = document.get("model")
    if document.keys() != {"model"} or not isinstance(rows, list) or len(rows) != 1 or not isinstance(rows[0], dict):
        raise errors.BadRequest("A registration in TOML is exactly one [[model]] table.")
    return rows[0]


def _xinference_row(text: str) -> JsonObject:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise errors.BadRequest(f"The registration is not JSON: {error}.") from None
    document = {key: value for key, value in document.items() if value is not None}
    if "model_name" not in document:
        raise errors.BadRequest("The registration has no model_name.")
    if document.get("version", 2) not in (1, 2):
        raise errors.BadRequest(f"Registrations have version 1 or 2, not {quoted(document['version'])}.")

    common = ("model_name", "language", "model_lang", "context_length", *_PLACE, *_BOOKKEEPING, *_SHARED)
    # The other fields are facts that the model's own type reads.
    facts = {key: value for key, value in document.items() if key not in common}
    for key in facts.keys() - {"dimensions"}:
        if near := nearest(key, ("dimensions", *common), cutoff=0.85):
            log.warning("A registration has %s, which is ignored; perhaps %s is meant.", quoted(key), near[0])
            del facts[key]
    language = document.get("language", document.get("model_lang", ()))
    return {
        # What Xinference calls it in language models.
        **({"max_tokens": document["context_length"]} if "context_length" in document else {}),
        **{key: document[key] for key in _SHARED if key in document},
        "name": document["model_name"],
        "languages": (language,) if isinstance(language, str) else language,
        "facts": facts,
        "sources": list(_xinference_sources(document)),
    }


def _xinference_sources(document: JsonObject) -> Iterator[JsonObject]:
    specs = document.get("model_specs") or [document]
    if not isinstance(specs, list) or not all(isinstance(spec, dict) for spec in specs):
        raise errors.BadRequest("model_specs takes a list of objects.")
    for spec in specs:
        if hubs := spec.get("model_src"):
            if not isinstance(hubs, dict) or not all(isinstance(fields, dict) for fields in hubs.values()):
                raise errors.BadRequest("model_src takes an object with one object per hub.")
            # Hubs that are unknown here are skipped if there is one that is known.
            for hub in [hub for hub in _HUBS if hub in hubs] or list(hubs):
                yield _xinference_source({**spec, **hubs[hub], "model_hub": hub})
        else:
            yield _xinference_source(spec)


def _xinference_source(spec: JsonObject) -> JsonObject:
    uri = spec.get("model_uri")
    hub = "local" if uri else spec.get("model_hub") or "huggingface"
    if not (uri or spec.get("model_id")):
        raise errors.BadRequest("The registration does not say where the weights are; give a model_uri or a model_id.")
    if hub not in ("local", *_HUBS):
        raise errors.BadRequest(
            f"Weights cannot come from {quoted(hub)}; model_hub takes {' or '.join(_HUBS)}.", "model_hub"
        )
    return {
        "hub": hub,
        "id": uri or spec["model_id"],
        "revision": None if uri else spec.get("model_revision"),
        "path": spec.get("model_file_name_template") or "",
        "format": spec.get("model_format") or "pytorch",
        "sizes": [str(size)] if (size := spec.get("model_size_in_billions")) is not None else [],
        "quantizations": spec.get("quantizations") or [spec.get("quantization") or "none"],
    }
