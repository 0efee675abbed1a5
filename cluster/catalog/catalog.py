"""Which models there are, built in and registered, and how they are found by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache

from cluster import errors
from cluster.catalog.entry import Entry
from cluster.catalog.rows import builtin_entries
from cluster.names import cut, nearest, quoted


class Catalog:
    """An immutable set of entries; within a type every name and alias belongs to one entry."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries = tuple(entries)
        owners: dict[tuple[str, str], Entry] = {}
        for entry in self._entries:
            for name in entry.names:
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
            taken = {_fold(name) for name in entry.names}
            for other in self.of_type(entry.type):
                if other.builtin and not taken.isdisjoint(map(_fold, other.names)):
                    raise errors.Conflict(
                        f"{entry.name!r} cannot be registered: {other.name!r} is a built-in {entry.type} model; "
                        "register yours under another name."
                    )
            kept[entry.type, _fold(entry.name)] = entry
        return Catalog(kept.values())

    def find(self, name: str, type: str = "") -> Entry:
        """The entry of that name, alias or hub id; case does not matter, and '.', '_' and '-' are the same."""
        # Cut first, since callers send what they like; no entry has a name of a thousand characters.
        type, folded = type.lower(), _fold(name[:1000])
        # A name wins over an alias and an alias over a hub id, so a custom model of a built-in's weights hides nothing.
        ranks: tuple[Callable[[Entry], Iterable[str]], ...] = (
            lambda entry: (entry.name,),
            lambda entry: entry.aliases,
            lambda entry: entry.hub_ids,
        )
        for names_of in ranks:
            by_type: dict[str, Entry] = {}
            for entry in self._entries:
                if type in ("", entry.type) and folded in map(_fold, names_of(entry)):
                    by_type.setdefault(entry.type, entry)
            if len(by_type) > 1:
                raise errors.UnknownModel(
                    f"{quoted(name)} is a model of several types ({', '.join(by_type)}); say which with model_type.",
                    "model_type",
                )
            if by_type:
                return next(iter(by_type.values()))
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
        subject = f"No {type} model" if type else "No model"
        for other in self._entries:
            if _fold(name) in map(_fold, (*other.names, *other.hub_ids)):
                return errors.UnknownModel(
                    f"{subject} is called {name!r}, but one of type {other.type} is; ask for model_type {other.type}.",
                    "model_type",
                )
        same = [entry for entry in self._entries if type in ("", entry.type)]
        others = [entry for entry in self._entries if type not in ("", entry.type)]
        near = [
            *_nearest(name, same),
            *(f"{near} (type {entry.type})" for near, entry in _nearest(name, others).items()),
        ]
        hint = f"the nearest are {', '.join(near[:4])}" if near else "list the registrations to see every name"
        return errors.UnknownModel(f"{subject} is called {name!r}; {hint}.", "model_name")


def _fold(name: str) -> str:
    return re.sub(r"[._-]", "-", name.lower())


def _nearest(name: str, entries: Iterable[Entry]) -> dict[str, Entry]:
    """Entries whose name, alias or hub id looks most like the name, by their own name."""
    spellings = {_fold(text): entry for entry in entries for text in (*entry.hub_ids, *entry.names)}
    name = _fold(name)
    close = nearest(name, spellings, 6) or [text for text in spellings if name and name in text]
    return {spellings[text].name: spellings[text] for text in close}


@cache
def _builtin() -> Catalog:
    return Catalog(builtin_entries())
