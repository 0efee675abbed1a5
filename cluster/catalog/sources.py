"""Where an entry's weights come from: choosing one of its sources, and checking those that a stranger registers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from urllib.parse import unquote

from cluster import errors
from cluster.catalog.entry import Entry, Source, billions_in
from cluster.names import quoted

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]*", re.ASCII)


def choose_source(
    entry: Entry,
    *,
    hub: str | None,
    format: str | None,
    quantization: str | None,
    size: str | float | None = None,
    engine: str | None = None,
    reads: Callable[[Source], bool] = lambda source: True,
    default_hub: str = "huggingface",
) -> Source:
    """The source to take the weights from, narrowed to one size, one quantisation and their file.

    If no hub is asked for, weights that need no download come first, then the default hub. A size, format or
    quantisation that is not asked for is the first that the entry lists. `reads` says which sources the engine can load
    that was asked for, if one was.
    """
    fitting = list(entry.sources)
    if not any(source.sizes for source in fitting):
        # Clients of Xinference say one of every model.
        size = None
    wishes: tuple[tuple[str, object, Callable[[Source], bool]], ...] = (
        ("model_engine", engine, reads),
        ("download_hub", hub, lambda source: source.hub == hub),
        ("model_format", format, lambda source: source.format.lower() == (format or "").lower()),
        ("model_size_in_billions", size, lambda source: _sized(source, size) is not None),
        ("quantization", quantization, lambda source: _spelled(source, quantization) is not None),
    )
    for option, value, fits in wishes:
        if value is None:
            continue
        before = fitting
        fitting = [source for source in before if fits(source)]
        if not fitting:
            raise errors.BadOption(_refusal(entry, option, value, before), option)

    hubs = ("package", "local", default_hub)
    source = min(
        fitting,
        key=lambda source: (
            source.format != fitting[0].format,
            hubs.index(source.hub) if source.hub in hubs else len(hubs),
        ),
    )
    chosen_size = _sized(source, size) or next(iter(source.sizes), None)
    return source.narrowed(chosen_size, _spelled(source, quantization) or source.quantizations[0])


def _refusal(entry: Entry, option: str, value: object, there: Sequence[Source]) -> str:
    if option == "model_size_in_billions":
        sizes = dict.fromkeys(size for source in there for size in source.sizes)
        return f"{entry.name} has no weights with {option} {quoted(value)}; there are {', '.join(sizes)}."
    choices = "; ".join(dict.fromkeys(map(_choice, there)))
    if option == "model_engine":
        return f"{entry.name} has no weights that the engine {quoted(value)} reads; there are {choices}."
    return f"{entry.name} has no weights with {option} {quoted(value)}; there are {choices}."


def _choice(source: Source) -> str:
    sizes = f" {' '.join(source.sizes)}" if source.sizes else ""
    return f"{source.hub} {source.format}{sizes} ({', '.join(source.quantizations)})"


def _sized(source: Source, size: str | float | None) -> str | None:
    """The size as the source spells it: 0_6 is 0.6B."""
    billions = None if size is None else billions_in(size)
    return next((spelling for spelling in source.sizes if billions_in(spelling) == billions), None)


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
