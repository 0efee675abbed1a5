"""Find or download weights: local folder, hub, package; which files make up one set of weights."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import httpx

from cluster import errors
from cluster.catalog.entry import Source
from cluster.paths import folder_under, local_path, real_path
from cluster.weights import headers
from cluster.weights.download import Cache, Download, Listener
from cluster.weights.hubs import HUBS, Listing, RemoteFile, client_of, listing_of, name_of

log = logging.getLogger("cluster.weights.locate")


def locate(
    source: Source,
    *,
    home: Path,
    offline: bool = False,
    allow_pickle: bool = False,
    roots: Sequence[Path] = (),
    patterns: Sequence[str] | None = None,
    report: Listener = lambda progress: None,
) -> Path:
    """The folder to load from, or the file where the source names one.

    `report` hears how far the download is, and stops it by raising. `patterns` names the files to fetch;
    without it, all that one set of weights needs.
    """
    if source.hub == "local":
        return _safe(_local_folder(source, roots), source, allow_pickle, roots)
    if source.hub == "package":
        return _safe(_package_folder(source), source, allow_pickle)
    found = _cached_folder(source, home, allow_pickle, patterns)
    if found and (offline or source.revision):
        return found
    hub = HUBS[source.hub]()
    cache = Cache.of(source, home)
    if offline:
        raise errors.DownloadFailed(
            f"{name_of(source)} is not (completely) in {cache.folder} and downloads are off: launch it once with "
            "CLUSTER_OFFLINE=false, or give its folder as model_path."
        )
    with client_of(hub) as client:
        try:
            listing = (source.revision and cache.listing(source.revision)) or listing_of(
                client, hub, source, attempts=1 if found else 3
            )
        except (httpx.HTTPError, httpx.InvalidURL, errors.DownloadFailed) as error:
            if found:
                log.warning("%s may be outdated, its hub could not be asked: %s", name_of(source), error)
                return found
            if isinstance(error, errors.DownloadFailed):
                raise
            raise errors.DownloadFailed(
                f"{hub.endpoint} cannot be reached ({error or type(error).__name__}) and {name_of(source)} is not in "
                f"{cache.folder}: check the network and the proxy, set {hub.endpoint_variable} to a mirror, or give "
                "the folder of the weights as model_path."
            ) from error
        wanted = _wanted(source, listing, allow_pickle, patterns)
        Download(client, hub, source, cache, listing, wanted, report).run()
    return cache.snapshot(listing.commit) / source.path


def is_cached(
    source: Source,
    home: Path,
    *,
    allow_pickle: bool = False,
    roots: Sequence[Path] = (),
    patterns: Sequence[str] | None = None,
) -> Path | None:
    """The folder `locate` would return without any download."""
    try:
        if source.hub in HUBS:
            return _cached_folder(source, home, allow_pickle, patterns)
        return locate(source, home=home, allow_pickle=allow_pickle, roots=roots)
    except (errors.DownloadFailed, errors.BadRequest):
        return None


@dataclass(frozen=True)
class CachedModel:
    hub: str
    id: str
    revision: str
    path: Path
    size_bytes: int
    complete: bool


def cached(home: Path) -> list[CachedModel]:
    """Every model that was downloaded, whole or in part."""
    found = []
    for hub in HUBS:
        for folder in sorted((home / "weights" / hub).glob("models--*")):
            cache = Cache(folder)
            for commit in sorted(path.stem for path in folder.glob("listings/*.json")):
                wanted = cache.wanted(commit)
                found.append(
                    CachedModel(
                        hub=hub,
                        id=folder.name.removeprefix("models--").replace("--", "/"),
                        revision=commit,
                        path=cache.snapshot(commit),
                        size_bytes=sum(cache.bytes_of(file) for file in wanted),
                        complete=all(cache.has(commit, file) for file in wanted),
                    )
                )
    return found


def _cached_folder(source: Source, home: Path, allow_pickle: bool, patterns: Sequence[str] | None) -> Path | None:
    cache = Cache.of(source, home)
    commit = cache.commit_of(source.revision or HUBS[source.hub].branch)
    listing = cache.listing(commit) if commit else None
    if listing is None:
        return None
    wanted = _wanted(source, listing, allow_pickle, patterns)
    is_whole = all(cache.has(listing.commit, file) for file in wanted)
    return cache.snapshot(listing.commit) / source.path if is_whole else None


def _wanted(source: Source, listing: Listing, allow_pickle: bool, patterns: Sequence[str] | None) -> list[RemoteFile]:
    path = source.path.strip("/")
    alone = [file for file in listing.files if file.name == path]
    if alone:
        _safe_names(source, [path], allow_pickle)
        return alone
    prefix = f"{path}/" if path else ""
    inside = {file.name.removeprefix(prefix): file for file in listing.files if file.name.startswith(prefix)}
    inside = {name: file for name, file in inside.items() if not _matches(name, source.exclude)}
    if not inside:
        raise errors.DownloadFailed(f"{name_of(source)} has no files{f' in {source.path}' if source.path else ''}.")
    names = choose(
        name_of(source),
        list(inside),
        gguf=source.format.startswith("gguf"),
        variant=source.variant,
        allow_pickle=allow_pickle,
        patterns=patterns,
    )
    return [inside[name] for name in names]


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _local_folder(source: Source, roots: Sequence[Path]) -> Path:
    folder = real_path(local_path(source.id))
    if roots and not any(folder.is_relative_to(real_path(root.expanduser())) for root in roots):
        allowed = ", ".join(map(str, roots))
        raise errors.BadRequest(f"{source.id} is not inside of a folder that models may be loaded from ({allowed}).")
    if not os.path.isdir(folder):
        found = "is no folder" if os.path.exists(folder) else "does not exist"
        raise errors.DownloadFailed(
            f"{folder} {found} on {socket.gethostname()}: give a folder that holds the weights."
        )
    return _inside(folder, source.path)


def _package_folder(source: Source) -> Path:
    """Found without importing the package, which could run anything."""
    top, *inner = source.id.split(".")
    if not all(part.isidentifier() for part in (top, *inner)):
        raise errors.BadRequest(f"{source.id!r} is not the import name of a package.")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:
        spec = None
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise errors.DownloadFailed(
            f"No package {top} is installed on {socket.gethostname()}: install the one that has it."
        )
    return _inside(Path(folders[0]), "/".join((*inner, source.path)))


def _inside(folder: Path, path: str) -> Path:
    inner = folder_under(folder, path) if path else folder
    if not os.path.exists(inner):
        raise errors.DownloadFailed(f"{folder} has no folder {path} and no such file: check the path of the source.")
    return inner


def _safe(place: Path, source: Source, allow_pickle: bool, roots: Sequence[Path] = ()) -> Path:
    names = [place.name] if place.is_file() else names_in(place, roots)
    _safe_names(source, [name for name in names if not _matches(name, source.exclude)], allow_pickle)
    return place


def _safe_names(source: Source, names: Sequence[str], allow_pickle: bool) -> None:
    if not allow_pickle:
        _without_pickles(name_of(source), names, weight_set(names))


PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
#: The first kind that a folder has is the one that is loaded.
_KINDS: tuple[tuple[str, ...], ...] = ((".safetensors",), (".gguf",), (".bin",), (".pt", ".pth", ".ckpt", ".pkl"))
_WEIGHTS = tuple(suffix for kind in _KINDS for suffix in kind)

#: The same weights for other runtimes, and what training left behind.
_COPIES = re.compile(
    r"(^|/)(onnx|openvino|coreml|flax|tf|original|metal|checkpoint-\d+)/"
    r"|\.(h5|msgpack|ot|onnx|onnx_data|tflite|mlmodel)$"
    r"|(^|/)(openvino_\w+\.\w+|training_args\.bin|optimizer\.\w+|scheduler\.pt|rng_state\w*\.pth|\.gitattributes)$"
)
SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_VARIANT = re.compile(r"(\.(fp16|bf16|fp32|fp8|non_ema|ema))+$")


def names_in(folder: Path, roots: Sequence[Path] = ()) -> list[str]:
    """The files of a folder that a model is loaded from."""
    try:
        return without_copies(headers.files_in(str(folder), tuple(str(root.expanduser()) for root in roots)))
    except headers.Unreadable as reason:
        raise errors.LoadFailed(f"{folder} {reason}.") from None


def without_copies(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if not _COPIES.search(name))


def weight_set(names: Iterable[str], variant: str = "") -> list[str]:
    """One set of weights: of each folder the safest kind, in one precision, without copies of itself."""
    folders: dict[str, list[str]] = {}
    pipelines = set()
    for name in names:
        path = PurePosixPath(name)
        if path.name == "model_index.json":
            pipelines.add(str(path.parent))
        elif name.endswith(_WEIGHTS):
            folders.setdefault(str(path.parent), []).append(name)
    # A pipeline is loaded from the folders of its components; weights beside them are the same in one file.
    return [name for folder, group in folders.items() if folder not in pipelines for name in _one_set(group, variant)]


def _one_set(group: list[str], variant: str) -> list[str]:
    kind = next(kind for kind in _KINDS if any(name.endswith(kind) for name in group))
    models: dict[str, dict[str, list[str]]] = {}
    for name in (name for name in group if name.endswith(kind)):
        stem = SHARD.sub("", PurePosixPath(name).stem)
        base = _VARIANT.sub("", stem)
        models.setdefault(base, {}).setdefault(stem[len(base) :], []).append(name)
    if len(models) > 1:
        models = {base: variants for base, variants in models.items() if base != "consolidated"}
    chosen = []
    for variants in models.values():
        files = variants.get(f".{variant}") or variants[min(variants)]
        whole = [name for name in files if not SHARD.search(PurePosixPath(name).stem)]
        chosen += whole or files
    # Small parts are sometimes pickled beside the model: bge-m3's sparse_linear.pt.
    copies = {"pytorch_model", "model", "consolidated", "diffusion_pytorch_model", *models}
    return chosen + [
        name
        for name in group
        if name.endswith((".bin", ".pt", ".pth"))
        and not name.endswith(kind)
        and _VARIANT.sub("", SHARD.sub("", PurePosixPath(name).stem)) not in copies
    ]


def choose(
    model: str,
    names: Sequence[str],
    *,
    gguf: bool = False,
    variant: str = "",
    allow_pickle: bool = False,
    patterns: Sequence[str] | None = None,
) -> list[str]:
    """Which of a repository's files are fetched: what is beside the weights, and one set of these."""
    if patterns is None:
        asked = [name for name in names if not _COPIES.search(name)]
    else:
        asked = [name for name in names if _matches(name, patterns)]
        if not asked:
            raise errors.DownloadFailed(f"{model} has no file that matches {', '.join(patterns)}.")
    if gguf:
        asked = [name for name in asked if not name.endswith((".safetensors", *PICKLES))]
    weights = weight_set(asked, variant)
    ggufs = sorted({SHARD.sub("", PurePosixPath(name).stem) for name in weights if name.endswith(".gguf")})
    if patterns is None and len(ggufs) > 1:
        raise errors.DownloadFailed(f"{model} has {len(ggufs)} GGUF models ({', '.join(ggufs)}): ask for one of them.")
    if not allow_pickle:
        weights = _without_pickles(model, asked, weights)
    return [name for name in asked if name in weights or not name.endswith(_WEIGHTS)]


def _without_pickles(model: str, names: Sequence[str], weights: Sequence[str]) -> list[str]:
    """The weights that are safe to load, or an error where a part of the model has no such."""
    safe = [name for name in weights if not name.endswith(PICKLES)]
    served = {str(PurePosixPath(name).parent) for name in safe}
    for name in weights:
        folder = PurePosixPath(name).parent
        is_part = not safe or str(folder) == "." or str(folder / "config.json") in names
        if is_part and str(folder) not in served:
            raise errors.DownloadFailed(
                f"{model} has {name} only as a pickle, which can run code when it is loaded: use a revision with "
                "safetensors, or set CLUSTER_ALLOW_PICKLE=true if you trust it."
            )
    return safe
