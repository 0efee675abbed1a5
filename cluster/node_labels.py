"""Labels: what machines say of themselves, and what a launch asks of the nodes that it may go to. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from cluster import errors
from cluster.names import cut, quoted

#: The label of a Ray node that says which version of this package runs there.
VERSION_LABEL = "cluster-version"
#: What stands between values of which any will do.
OR = "|"
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


def read_labels(text: str) -> dict[str, str]:
    """`gpu=a100,zone=b` as a mapping."""
    labels = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not _LABEL.fullmatch(name) or not _LABEL.fullmatch(value) or name == VERSION_LABEL:
            raise errors.BadOption(
                f"labels takes name=value, of letters, digits and _.- with at most 63 characters, not {quoted(part)}.",
                "labels",
            )
        labels[name] = value
    return labels


def _as_texts(value: Any) -> Any:
    """`zone=b|c,gpu=a100`, `["zone=b|c"]` and `{"zone": ["b", "c"]}`; pydantic refuses anything else."""
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, Mapping):
        return tuple(f"{name}={_either(values)}" for name, values in value.items())
    return value


def _either(values: Any) -> str:
    return OR.join(map(str, values)) if isinstance(values, (list, tuple)) else str(values)


def _each_name_once(wanted: tuple[str, ...]) -> tuple[str, ...]:
    for text in wanted:
        name, _, values = text.partition("=")
        if not all(_LABEL.fullmatch(part) for part in (name, *values.split(OR))):
            raise ValueError(f"node_labels takes name=value, or name=value|other for either, not {cut(text)!r}")
    names = [text.partition("=")[0] for text in wanted]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"node_labels has {cut(twice)} twice; write {cut(twice)}=one|other for either")
    return tuple(sorted(wanted))


#: What a node's labels have to be, in any of the forms that people and clients write: all of these.
NodeLabels = Annotated[
    tuple[str, ...], BeforeValidator(_as_texts), AfterValidator(_each_name_once), Field(max_length=20)
]


def lacking(wanted: Sequence[str], labels: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Those that a node with these labels does not have."""
    own = dict(labels)
    return tuple(text for text in wanted if own.get(_name(text)) not in _values(text))


def selector_of(wanted: Sequence[str]) -> dict[str, str]:
    """The same in Ray's words."""
    return {_name(text): f"in({','.join(_values(text))})" for text in wanted}


def _name(text: str) -> str:
    return text.partition("=")[0]


def _values(text: str) -> list[str]:
    return text.partition("=")[2].split(OR)
