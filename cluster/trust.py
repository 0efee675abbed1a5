"""Decides whether code beside a model's weights may run: a repository at a commit can be trusted, a name cannot."""

from __future__ import annotations

import re
from collections.abc import Collection

from cluster.catalog.entry import Entry, Source

COMMIT = re.compile(r"[0-9a-f]{40}")
#: A name of the catalogue stands for the commits that its own entry pins.
TRUSTED = re.compile(r"[\w.-]+|(huggingface|modelscope):[\w.-]+/[\w.-]+@[0-9a-f]{40}", re.ASCII)


def pinned(source: Source, remote_code: Collection[str]) -> Source:
    """The source at the commit that the operator trusts, when it names no revision itself."""
    if source.revision is None:
        prefix = f"{source.hub}:{source.id}@"
        commit = next((text.removeprefix(prefix) for text in remote_code if text.startswith(prefix)), None)
        return source.model_copy(update={"revision": commit})
    return source


def may_run_code(entry: Entry, source: Source, remote_code: Collection[str]) -> bool:
    """Whether code from that source of that entry may run. A folder that a launch or a registration names is never
    trusted: the person who names it may have written it."""
    if source.hub == "local":
        return False
    if f"{source.hub}:{source.id}@{source.revision}" in remote_code:
        return True
    return entry.builtin and entry.name in remote_code and _is_of(entry, source) and _is_fixed(source)


def how_to_trust(entry: Entry, source: Source) -> str:
    """The end of a sentence that says what the operator would have to set."""
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
    version = (source.hub, source.id, source.revision)
    return any(version == (own.hub, id, own.revision) for own in entry.sources for id in own.ids())


def _is_fixed(source: Source) -> bool:
    """A package stays what was installed; a branch or a tag of a repository can be moved."""
    return source.hub == "package" or COMMIT.fullmatch(source.revision or "") is not None
