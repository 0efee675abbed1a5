"""Which models there are: reads and checks the TOML files beside it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import unquote

from pydantic import ValidationError

from cluster import errors
from cluster.catalog.entry import Entry, Source
from cluster.names import cut, nearest, quoted


class Catalog:
    """An immutable set of entries; within a type every name and alias belongs to one entry."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries = tuple(entries)
        owners: dict[tuple[str, str], Entry] = {}
        for entry in self._entries:
            for name in _names(entry):
                owner = owners.setdefault((entry.type, _fold(name)), entry)
                if owner is not entry:
                    raise errors.Conflict(
                        f"The {entry.type} models {owner.name!r} and {entry.name!r} share the name {name!r}."
                    )

    @classmethod
    def builtin(cls) -> Catalog:
        return _builtin()

    def with_registered(self, entries: Iterable[Entry]) -> Catalog:
        """This catalogue and custom entries; a custom entry takes the place of an earlier one of its name."""
        kept = {(entry.type, _fold(entry.name)): entry for entry in self._entries}
        for entry in entries:
            taken = {_fold(name) for name in _names(entry)}
            for other in self.of_type(entry.type):
                if other.builtin and not taken.isdisjoint(map(_fold, _names(other))):
                    raise errors.Conflict(
                        f"{entry.name!r} cannot be registered: {other.name!r} is a built-in {entry.type} model; "
                        "register yours under another name."
                    )
            kept[entry.type, _fold(entry.name)] = entry
        return Catalog(kept.values())

    def find(self, name: str, type: str = "") -> Entry:
        """The entry of that name, alias or hub id; case does not matter, and '.', '_' and '-' are the same."""
        # No entry has a name of a thousand characters.
        type, folded = type.lower(), _fold(name[:1000])
        # A name wins over an alias and an alias over a hub id, so a custom model of a built-in's weights hides nothing.
        for names_of in (_name, _aliases, _hub_ids):
            found: dict[str, Entry] = {}
            for entry in self._entries:
                if type in ("", entry.type) and folded in map(_fold, names_of(entry)):
                    found.setdefault(entry.type, entry)
            if len(found) > 1:
                raise errors.UnknownModel(
                    f"{quoted(name)} is a model of several types ({', '.join(found)}); say which with model_type.",
                    "model_type",
                )
            if found:
                return next(iter(found.values()))
        raise self._unknown(name, type)

    def of_type(self, type: str) -> tuple[Entry, ...]:
        return tuple(entry for entry in self._entries if entry.type == type.lower())

    def types(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(entry.type for entry in self._entries))

    def _unknown(self, name: str, type: str) -> errors.UnknownModel:
        name = cut(name)
        if type and type not in self.types():
            return errors.UnknownModel(
                f"No model type is called {quoted(type)}; there are {', '.join(self.types())}.", "model_type"
            )
        asked = f"No {type} model" if type else "No model"
        for other in self._entries:
            if _fold(name) in (_fold(known) for known in (*_names(other), *_hub_ids(other))):
                return errors.UnknownModel(
                    f"{asked} is called {name!r}, but one of type {other.type} is; ask for model_type {other.type}.",
                    "model_type",
                )
        same = [entry for entry in self._entries if type in ("", entry.type)]
        rest = [entry for entry in self._entries if type not in ("", entry.type)]
        near = [*_nearest(name, same), *(f"{near} (type {entry.type})" for near, entry in _nearest(name, rest).items())]
        hint = f"the nearest are {', '.join(near[:4])}" if near else "list the registrations to see every name"
        return errors.UnknownModel(f"{asked} is called {name!r}; {hint}.", "model_name")


def _fold(name: str) -> str:
    return re.sub(r"[._-]", "-", name.lower())


def _name(entry: Entry) -> tuple[str, ...]:
    return (entry.name,)


def _aliases(entry: Entry) -> tuple[str, ...]:
    return entry.aliases


def _names(entry: Entry) -> tuple[str, ...]:
    return (entry.name, *entry.aliases)


def _hub_ids(entry: Entry) -> tuple[str, ...]:
    return tuple(source.id for source in entry.sources if source.hub in ("huggingface", "modelscope"))


def _nearest(name: str, entries: Iterable[Entry]) -> dict[str, Entry]:
    """Entries whose name, alias or hub id looks most like it, by their own name."""
    known = {_fold(known): entry for entry in entries for known in (*_hub_ids(entry), *_names(entry))}
    name = _fold(name)
    close = nearest(name, known, 6) or [text for text in known if name and name in text]
    return {known[text].name: known[text] for text in close}


def choose_source(
    entry: Entry, *, hub: str | None, format: str | None, quantization: str | None, default_hub: str = "huggingface"
) -> Source:
    """Where to take the weights from: the source, narrowed to one quantisation and its file.

    With no hub asked for, weights that need no download come first, then the default hub. What is not asked for is
    what the entry lists first.
    """
    fitting = list(entry.sources)
    for option, asked, fits in (
        ("download_hub", hub, lambda source: source.hub == hub),
        ("model_format", format, lambda source: source.format.lower() == (format or "").lower()),
        ("quantization", quantization, lambda source: _spelled(source, quantization) is not None),
    ):
        if asked is None:
            continue
        fitting = [source for source in fitting if fits(source)]
        if not fitting:
            there = "; ".join(
                f"{known.hub} {known.format} ({', '.join(known.quantizations)})" for known in entry.sources
            )
            raise errors.BadOption(
                f"{entry.name} has no weights with {option} {quoted(asked)}; there are {there}.", option
            )

    hubs = ("package", "local", default_hub)
    source = min(
        fitting,
        key=lambda known: (
            known.format != fitting[0].format,
            hubs.index(known.hub) if known.hub in hubs else len(hubs),
        ),
    )
    chosen = _spelled(source, quantization) or source.quantizations[0]
    path = source.path.replace("{quantization}", chosen)
    return source.model_copy(update={"quantizations": (chosen,), "path": path})


def _spelled(source: Source, quantization: str | None) -> str | None:
    """The quantisation as the source spells it: q4_k_m is Q4_K_M."""
    asked = (quantization or "").lower()
    return next((known for known in source.quantizations if known.lower() == asked), None)


@cache
def documents() -> dict[str, dict[str, Any]]:
    """Each file's content by model type; keys beside `model` are defaults of its rows."""
    files = {file.name: file for file in resources.files("cluster.catalog").iterdir() if file.name.endswith(".toml")}
    return {name.removesuffix(".toml"): tomllib.loads(files[name].read_text("utf-8")) for name in sorted(files)}


@cache
def _builtin() -> Catalog:
    return Catalog(entry_of(type, row) for type, document in documents().items() for row in document["model"])


def entry_of(type: str, row: dict[str, Any]) -> Entry:
    """A checked entry of one row and its file's defaults."""
    name = row.get("name", "without a name")
    defaults = {key: value for key, value in documents().get(type, {}).items() if key != "model"}
    facts = row.get("facts", {})
    if not isinstance(facts, dict):
        raise errors.BadRequest(f"The {type} model {quoted(name)}: facts takes a table, not {quoted(facts)}.")
    fields = {**defaults, **row, "type": type, "facts": {**defaults.get("facts", {}), **facts}}
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


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]*", re.ASCII)


def _checked_source(name: str, source: Source) -> Source:
    """The source when it leads nowhere but to a hub or a folder; hub ids and paths become parts of paths later."""
    if source.hub == "package":
        raise errors.BadRequest(f"{name!r} cannot take its weights from a package; name a hub or a folder.")
    if source.hub == "local":
        source = source.model_copy(update={"id": _folder(source.id)})
    elif not _HUB_ID.fullmatch(source.id) or ".." in source.id:
        raise errors.BadRequest(f"{name!r}: {quoted(source.id)} is not the id of a repository such as BAAI/bge-m3.")
    if source.revision is not None and (not _REVISION.fullmatch(source.revision) or ".." in source.revision):
        raise errors.BadRequest(f"{name!r}: {quoted(source.revision)} is not a revision; give a commit or a tag.")
    if source.path.startswith("/") or ".." in source.path.split("/"):
        raise errors.BadRequest(f"{name!r}: {quoted(source.path)} leads outside of its repository.")
    return source


def _folder(uri: str) -> str:
    """The absolute path that `file:///path` or a plain path names."""
    scheme, separator, path = uri.partition("://")
    if separator and scheme.lower() != "file":
        raise errors.BadRequest(
            f"{quoted(uri)} is not a folder; model_uri takes file:///folder or /folder.", "model_uri"
        )
    path = unquote(path.removeprefix("localhost")) if separator else uri
    if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise errors.BadRequest(
            f"{quoted(uri)} is not an absolute path without '..'; give the whole path.", "model_uri"
        )
    return path.rstrip("/") or "/"
