"""Where an entry's weights come from: choosing one of its sources, and checking those that a stranger registers."""

from __future__ import annotations

import re
from urllib.parse import unquote

from cluster import errors
from cluster.catalog.entry import Entry, Source
from cluster.names import quoted

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]*", re.ASCII)


def choose_source(
    entry: Entry, *, hub: str | None, format: str | None, quantization: str | None, default_hub: str = "huggingface"
) -> Source:
    """The source to take the weights from, narrowed to one quantisation and its file.

    If no hub is asked for, weights that need no download come first, then the default hub. A format or quantisation
    that is not asked for is the first that the entry lists.
    """
    fitting = list(entry.sources)
    for option, value, fits in (
        ("download_hub", hub, lambda source: source.hub == hub),
        ("model_format", format, lambda source: source.format.lower() == (format or "").lower()),
        ("quantization", quantization, lambda source: _spelled(source, quantization) is not None),
    ):
        if value is None:
            continue
        fitting = [source for source in fitting if fits(source)]
        if not fitting:
            choices = "; ".join(
                f"{source.hub} {source.format} ({', '.join(source.quantizations)})" for source in entry.sources
            )
            raise errors.BadOption(
                f"{entry.name} has no weights with {option} {quoted(value)}; there are {choices}.", option
            )

    hubs = ("package", "local", default_hub)
    source = min(
        fitting,
        key=lambda source: (
            source.format != fitting[0].format,
            hubs.index(source.hub) if source.hub in hubs else len(hubs),
        ),
    )
    chosen = _spelled(source, quantization) or source.quantizations[0]
    path = source.path.replace("{quantization}", chosen)
    return source.model_copy(update={"quantizations": (chosen,), "path": path})


def _spelled(source: Source, quantization: str | None) -> str | None:
    """The quantisation as the source spells it: q4_k_m is Q4_K_M."""
    lower = (quantization or "").lower()
    return next((spelling for spelling in source.quantizations if spelling.lower() == lower), None)


def checked_source(name: str, source: Source) -> Source:
    """The source of a registration, unless it leads anywhere but to a hub or a folder: ids become parts of paths."""
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
