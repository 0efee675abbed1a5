"""Stored wishes that this version cannot read, of a later one for example: as much of them as can be shown. Pure."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from cluster.catalog.entry import Entry, Source
from cluster.launch import LaunchSpec, Wanted


def read(uid: str, stored: Any) -> tuple[Wanted, str]:
    """The wish, and why it must not be acted on; the reason is empty for one that is understood as a whole.

    What is not understood is left out of the wish, which then only serves to be shown and routed to.
    """
    if not isinstance(stored, dict):
        return _placeholder(uid, {}), "The stored wish is damaged; terminate the model and launch it again."
    known = copy.deepcopy(stored)
    unknown = _without_unknown_spec_fields(known)
    while True:
        try:
            wanted, wrong = Wanted.model_validate(known), []
            break
        except ValidationError as error:
            wrong = error.errors()
        extra = [one["loc"] for one in wrong if one["type"] == "extra_forbidden"]
        if not extra:
            wanted = _placeholder(uid, stored)
            break
        for where in extra:
            _remove(known, where)
        unknown += [_name(where) for where in extra]
    unknown += [_name(one["loc"]) for one in wrong]
    if wanted.uid != uid:
        wanted = wanted.model_copy(update={"uid": uid})
        unknown.append("uid")
    return wanted, told(unknown) if unknown else ""


def told(unknown: Iterable[str]) -> str:
    names = ", ".join(dict.fromkeys(unknown))
    return (
        f"The wish is of a newer version, this one cannot read {names}: its workers go on as they are, "
        "but none is started or replaced; terminate it, or start the newer version again."
    )


def _without_unknown_spec_fields(stored: dict[str, Any]) -> list[str]:
    """A spec takes any other key for an option of the family; in what was stored all of those are in `options`."""
    spec = stored.get("spec")
    if not isinstance(spec, dict):
        return []
    unknown = [name for name in spec if name not in LaunchSpec.model_fields]
    for name in unknown:
        del spec[name]
    return [f"spec.{name}" for name in unknown]


def _remove(value: Any, where: tuple[int | str, ...]) -> None:
    for part in where[:-1]:
        value = value[part]
    del value[where[-1]]


def _name(where: tuple[int | str, ...]) -> str:
    return ".".join(map(str, where))


def _placeholder(uid: str, stored: dict[str, Any]) -> Wanted:
    """Enough to be listed and terminated."""

    def text(section: str, field: str, default: str) -> str:
        part = stored.get(section)
        value = part.get(field) if isinstance(part, dict) else None
        return value if isinstance(value, str) else default

    generation, abilities = stored.get("generation"), stored.get("abilities")
    source = Source(hub="local", id=uid)
    return Wanted(
        uid=uid,
        generation=generation if isinstance(generation, int) else 0,
        spec=LaunchSpec(model_name=text("spec", "model_name", uid), model_type=text("entry", "type", "")),
        entry=Entry(
            name=text("entry", "name", uid),
            type=text("entry", "type", ""),
            family=text("entry", "family", ""),
            sources=(),
        ),
        source=source,
        family="",
        abilities=tuple(str(ability) for ability in abilities) if isinstance(abilities, list) else (),
        claim_bytes=0,
    )
