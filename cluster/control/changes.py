"""What differs between a wish and another one of the same uid, and between wishes and a declared list; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cluster.launch import Wanted


@dataclass(frozen=True)
class Change:
    """One line of the difference between declared and wished models."""

    uid: str
    change: Literal["launch", "update", "scale", "terminate", "same"]
    before: Wanted | None
    after: Wanted | None
    fields: tuple[str, ...] = ()


def asks_the_same(known: Wanted, asked: Wanted) -> bool:
    return not changed_fields(known, asked)


def changed_fields(known: Wanted, asked: Wanted) -> tuple[str, ...]:
    """Which fields of the spec differ; the uid a spec is served under is not one of them."""
    before, after = (
        w.spec.model_dump(exclude={"model_uid", "model_name", "model_type", "options"}) for w in (known, asked)
    )
    fields = [name for name in before if before[name] != after[name]]
    options = {*known.spec.options, *asked.spec.options}
    fields += sorted(name for name in options if known.spec.options.get(name) != asked.spec.options.get(name))
    if (known.entry, known.source, known.family) != (asked.entry, asked.source, asked.family):
        fields.insert(0, "model_name" if known.entry.name != asked.entry.name else "entry")
    return tuple(fields)


def difference(known: Wanted, asked: Wanted) -> str:
    return ", ".join(changed_fields(known, asked)) + " differ"


def differences(wanted: Mapping[str, Wanted], declared: Sequence[Wanted], prune: bool) -> list[Change]:
    """What would have to change for the declared models to be the wished ones."""
    changes = []
    for after in declared:
        before = wanted.get(after.uid)
        if before is None:
            changes.append(Change(after.uid, "launch", None, after))
            continue
        fields = changed_fields(before, after)
        kind: Literal["same", "scale", "update"] = (
            "same" if not fields else "scale" if fields == ("replica",) else "update"
        )
        changes.append(Change(after.uid, kind, before, after, fields))
    named = {after.uid for after in declared}
    if prune:
        gone = [before for uid, before in wanted.items() if uid not in named and before.declared]
        changes += [Change(before.uid, "terminate", before, None) for before in gone]
    return changes
