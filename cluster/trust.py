"""Whether code that lies beside a model's weights may run: trust is in a repository at a commit, not in a name."""

from __future__ import annotations

import re
from collections.abc import Collection

from cluster.catalog.entry import Entry, Source

COMMIT = re.compile(r"[0-9a-f]{40}")
#: A name of the catalogue stands for the commits that its own entry pins.
TRUSTED = re.compile(r"[\w.-]+|(huggingface|modelscope):[\w.-]+/[\w.-]+@[0-9a-f]{40}", re.ASCII)


def pinned(source: Source, remote_code: Collection[str]) -> Source:
    """At the commit that the operator trusts, where the source itself says none."""
    if source.revision is None:
        prefix = f"{source.hub}:{source.id}@"
        commit = next((text.removeprefix(prefix) for text in remote_code if text.startswith(prefix)), None)
        return source.model_copy(update={"revision": commit})
    return source


def may_run_code(entry: Entry, source: Source, remote_code: Collection[str]) -> bool:
    """Of that source of that entry. A folder that a launch or a registration names is never trusted: whoever names it
    may have written it."""
    if source.hub == "local":
        return False
    if f"{source.hub}:{source.id}@{source.revision}" in remote_code:
        return True
    return entry.builtin and entry.name in remote_code and _is_of(entry, source) and _is_fixed(source)


def how_to_trust(entry: Entry, source: Source) -> str:
    """What the operator would have to set, as the end of a sentence."""
    if source.hub == "local":
        return "and it is never taken from a folder that a launch names: launch it from its hub"
    by_name = entry.builtin and _is_fixed(source)
    setting = entry.name if by_name else f"{source.hub}:{source.id}@{source.revision or 'COMMIT'}"
    also = "" if by_name else ", with the whole commit of the code that was read"
    return f"which is refused unless the server is started with CLUSTER_REMOTE_CODE={setting}{also}"


def is_pinned_by_us(entry: Entry, source: Source) -> bool:
    """Weights that the catalogue itself names at a fixed revision; no caller can write a revision."""
    return entry.builtin and source.revision is not None and source.hub != "local"


def _is_of(entry: Entry, source: Source) -> bool:
    place = (source.hub, source.id, source.revision)
    return any(place == (own.hub, own.id, own.revision) for own in entry.sources)


def _is_fixed(source: Source) -> bool:
    """A package stays what was installed; a branch or a tag of a repository can be moved."""
    return source.hub == "package" or COMMIT.fullmatch(source.revision or "") is not None
