"""Reads wanted models as they are stored, also those of a later version, as far as they can be shown. Pure."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from cluster.catalog.entry import Entry, Source
from cluster.launch import LaunchSpec, Wanted
from cluster.value import JsonObject


def read(uid: str, stored: Any) -> tuple[Wanted, str]:
    """What is wanted, and why it must not be acted on; the reason is empty for a model that is understood completely.

    Fields that are not understood are left out. The result then only serves to be shown and routed to.
    """
    if not isinstance(stored, dict):
        return _placeholder(uid, {}), "What is stored of it is damaged; terminate the model and launch it again."
    readable = copy.deepcopy(stored)
    unknown = _without_unknown_spec_fields(readable)
    while True:
        try:
            wanted, wrong = Wanted.model_validate(readable), []
            break
        except ValidationError as error:
            wrong = error.errors()
        extra = [problem["loc"] for problem in wrong if problem["type"] == "extra_forbidden"]
        if not extra:
            wanted = _placeholder(uid, stored)
            break
        for where in extra:
            _remove(readable, where)
        unknown += [_name(where) for where in extra]
    unknown += [_name(problem["loc"]) for problem in wrong]
    if wanted.uid != uid:
        wanted = wanted.model_copy(update={"uid": uid})
        unknown.append("uid")
    return wanted, reason_of(unknown) if unknown else ""


def reason_of(unknown: Iterable[str]) -> str:
    names = ", ".join(dict.fromkeys(unknown))
    return (
        f"It was launched by a newer version and this one cannot read {names}: its workers go on as they are, "
        "but none is started or replaced. Terminate it, or start the newer version again."
    )


def _without_unknown_spec_fields(stored: JsonObject) -> list[str]:
    """Elsewhere an unknown key of a spec is an option of the family. A stored spec has all of those in `options`."""
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


def _placeholder(uid: str, stored: JsonObject) -> Wanted:
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
