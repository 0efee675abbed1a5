"""What differs between two versions of a wanted model, and between all that is wanted and a declared list. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cluster.launch import Wanted


@dataclass(frozen=True)
class Change:
    """One line of the difference between declared and wanted models."""

    uid: str
    change: Literal["launch", "update", "scale", "rename", "adjust", "terminate", "same"]
    before: Wanted | None
    after: Wanted | None
    fields: tuple[str, ...] = ()


#: Fields that say how many replicas there are.
COUNTS = {"replica", "min_replica", "max_replica", "target_queue_s"}
#: Fields that change without other workers.
ADJUSTABLE = {*COUNTS, "aliases", "idle_doze_s", "idle_sleep_s", "pinned", "priority"}


def is_same_launch(before: Wanted, after: Wanted) -> bool:
    return not changed_fields(before, after)


def changed_fields(before: Wanted, after: Wanted) -> tuple[str, ...]:
    """Which fields of the spec differ; the uid a spec is served under is not one of them, nor
    whether it begins asleep, nor how it takes the place of another version."""
    old, new = (
        w.spec.model_dump(exclude={"model_uid", "model_name", "model_type", "options", "asleep", "canary"})
        for w in (before, after)
    )
    fields = [name for name in old if old[name] != new[name]]
    if before.spec.bounds is not None and after.spec.bounds is not None and "replica" in fields:
        # The load decides.
        fields.remove("replica")
    options = {*before.spec.options, *after.spec.options}
    fields += sorted(name for name in options if before.spec.options.get(name) != after.spec.options.get(name))
    if (before.entry, before.source, before.family) != (after.entry, after.source, after.family):
        fields.insert(0, "model_name" if before.entry.name != after.entry.name else "entry")
    return tuple(fields)


def difference(before: Wanted, after: Wanted) -> str:
    return ", ".join(changed_fields(before, after)) + " differ"


def differences(wanted: Mapping[str, Wanted], declared: Sequence[Wanted], prune: bool) -> list[Change]:
    """What has to change for the declared models to be the wanted ones."""
    changes = []
    for after in declared:
        before = wanted.get(after.uid)
        if before is None:
            changes.append(Change(after.uid, "launch", None, after))
            continue
        fields = changed_fields(before, after)
        changes.append(Change(after.uid, _kind_of(fields), before, _as_many(before, after), fields))
    named = {after.uid for after in declared}
    if prune:
        gone = [before for uid, before in wanted.items() if uid not in named and before.declared]
        changes += [Change(before.uid, "terminate", before, None) for before in gone]
    return changes


def _as_many(before: Wanted, after: Wanted) -> Wanted:
    """With as many replicas as the load has brought about, where that goes on deciding."""
    bounds = after.spec.bounds
    if bounds is None or before.spec.bounds is None:
        return after
    return after.scaled(bounds.nearest(before.replica))


def _kind_of(fields: Collection[str]) -> Literal["same", "scale", "rename", "adjust", "update"]:
    """Only an update needs other workers."""
    if not fields:
        return "same"
    if set(fields) <= ADJUSTABLE:
        return "scale" if COUNTS & set(fields) else "rename" if "aliases" in fields else "adjust"
    return "update"


def carried_over(old: Wanted, new: Wanted, to: Wanted) -> Wanted:
    """What differs between two wishes for one version and needs no other workers, as a wish for another version."""
    fields = {
        name: getattr(new.spec, name) for name in ADJUSTABLE if getattr(new.spec, name) != getattr(old.spec, name)
    }
    return to.model_copy(update={"spec": to.spec.model_copy(update=fields), "declared": new.declared})
