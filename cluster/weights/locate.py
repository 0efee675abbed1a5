"""Finds or downloads weights: in a folder, a hub or a package; and which files make up one set of weights."""

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
from cluster.weights.download import Download, Listener, RepositoryCache
from cluster.weights.hubs import HUBS, Listing, RemoteFile, client_of, listing_of, name_of
from cluster.weights.neighbours import Neighbours, NoNeighbours

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
    neighbours: Neighbours | None = None,
) -> Path:
    """The folder to load from, or the file where the source names one.

    `report` is called with the progress of a download, and stops it by raising. `patterns` names the files to fetch;
    without it, all files that one set of weights needs are fetched. What `neighbours` have is taken from them.
    """
    if source.hub == "local":
        return _safe(_local_folder(source, roots), source, allow_pickle, roots)
    if source.hub == "package":
        return _safe(_package_folder(source), source, allow_pickle)
    folder = _cached_folder(source, home, allow_pickle, patterns)
    if folder and (offline or source.revision):
        return folder
    hub = HUBS[source.hub]()
    cache = RepositoryCache.of(source, home)
    if offline:
        raise errors.DownloadFailed(
            f"{name_of(source)} is not (completely) in {cache.folder} and downloads are off: launch it once with "
            "CLUSTER_OFFLINE=false, or give its folder as model_path."
        )
    with client_of(hub) as client:
        try:
            listing = (source.revision and cache.listing(source.revision)) or listing_of(
                client, hub, source, attempts=1 if folder else 3
            )
        except (httpx.HTTPError, httpx.InvalidURL, errors.DownloadFailed) as error:
            if folder:
                log.warning("%s may be outdated, its hub could not be asked: %s", name_of(source), error)
                return folder
            if isinstance(error, errors.DownloadFailed):
                raise
            raise errors.DownloadFailed(
                f"{hub.endpoint} cannot be reached ({error or type(error).__name__}) and {name_of(source)} is not in "
                f"{cache.folder}: check the network and the proxy, set {hub.endpoint_variable} to a mirror, or give "
                "the folder of the weights as model_path."
            ) from error
        wanted = _wanted(source, listing, allow_pickle, patterns)
        Download(client, hub, source, cache, listing, wanted, report, neighbours or NoNeighbours()).run()
    return cache.snapshot(listing.commit) / _path_in(listing, source)


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
    """Every model that was downloaded, completely or in part."""
    models = []
    for hub in HUBS:
        for folder in sorted((home / "weights" / hub).glob("models--*")):
            cache = RepositoryCache(folder)
            for commit in sorted(path.stem for path in folder.glob("listings/*.json")):
                wanted = cache.wanted(commit)
                models.append(
                    CachedModel(
                        hub=hub,
                        id=folder.name.removeprefix("models--").replace("--", "/"),
                        revision=commit,
                        path=cache.snapshot(commit),
                        size_bytes=sum(cache.bytes_of(file) for file in wanted),
                        complete=all(cache.has(commit, file) for file in wanted),
                    )
                )
    return models


def _cached_folder(source: Source, home: Path, allow_pickle: bool, patterns: Sequence[str] | None) -> Path | None:
    cache = RepositoryCache.of(source, home)
    commit = cache.commit_of(source.revision or HUBS[source.hub].branch)
    listing = cache.listing(commit) if commit else None
    if listing is None:
        return None
    wanted = _wanted(source, listing, allow_pickle, patterns)
    is_complete = all(cache.has(listing.commit, file) for file in wanted)
    return cache.snapshot(listing.commit) / _path_in(listing, source) if is_complete else None


def _wanted(source: Source, listing: Listing, allow_pickle: bool, patterns: Sequence[str] | None) -> list[RemoteFile]:
    path = source.path.strip("/")
    alone = [file for file in listing.files if file.name == path]
    if alone:
        _safe_names(source, [path], allow_pickle)
        return alone
    if parts := _parts_of(listing, source):
        return parts
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


def _path_in(listing: Listing, source: Source) -> str:
    """The path of the source, or that of the first part of the file that it names."""
    return next((file.name for file in _parts_of(listing, source)), source.path)


def _parts_of(listing: Listing, source: Source) -> list[RemoteFile]:
    """The parts of a GGUF file that a repository has only split, often in a folder of their own."""
    path = PurePosixPath(source.path.strip("/"))
    if path.suffix != ".gguf" or any(file.name == str(path) for file in listing.files):
        return []
    named = re.compile(rf"(?:.*/)?{re.escape(path.stem)}-(\d{{5}})-of-(\d{{5}})\.gguf")
    sets: dict[tuple[str, str], dict[int, RemoteFile]] = {}
    for file in listing.files:
        if (match := named.fullmatch(file.name)) is not None:
            sets.setdefault((str(PurePosixPath(file.name).parent), match[2]), {})[int(match[1])] = file
    for (_, count), parts in sorted(sets.items()):
        if sorted(parts) == list(range(1, int(count) + 1)):
            return [parts[number] for number in sorted(parts)]
    if sets:
        raise errors.DownloadFailed(f"{name_of(source)} lacks parts of {path.name}: launch it in another quantization.")
    return []


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _local_folder(source: Source, roots: Sequence[Path]) -> Path:
    folder = real_path(local_path(source.id))
    if roots and not any(folder.is_relative_to(real_path(root.expanduser())) for root in roots):
        allowed = ", ".join(map(str, roots))
        raise errors.BadRequest(f"{source.id} is not in a folder that models may be loaded from ({allowed}).")
    # A GGUF file is a whole model.
    if not os.path.isdir(folder) and not (folder.suffix == ".gguf" and os.path.isfile(folder)):
        problem = "is not a folder" if os.path.exists(folder) else "does not exist"
        raise errors.DownloadFailed(
            f"{folder} {problem} on {socket.gethostname()}: give a folder that holds the weights."
        )
    return _inside(folder, source.path)


def _package_folder(source: Source) -> Path:
    """Finds the package without importing it, because an import could run anything."""
    top, *inner = source.id.split(".")
    if not all(part.isidentifier() for part in (top, *inner)):
        raise errors.BadRequest(f"{source.id!r} is not the import name of a package.")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:
        spec = None
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise errors.DownloadFailed(f"The package {top} is not installed on {socket.gethostname()}: install it there.")
    return _inside(Path(folders[0]), "/".join((*inner, source.path)))


def _inside(folder: Path, path: str) -> Path:
    inner = folder_under(folder, path) if path else folder
    if not os.path.exists(inner):
        raise errors.DownloadFailed(f"{folder} has neither a folder nor a file {path}: check the path of the source.")
    return inner


def _safe(path: Path, source: Source, allow_pickle: bool, roots: Sequence[Path] = ()) -> Path:
    names = [path.name] if path.is_file() else names_in(path, roots)
    _safe_names(source, [name for name in names if not _matches(name, source.exclude)], allow_pickle)
    return path


def _safe_names(source: Source, names: Sequence[str], allow_pickle: bool) -> None:
    if not allow_pickle:
        _without_pickles(name_of(source), names, weight_set(names))


PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
#: Kinds of weights; a folder is loaded from the first kind that it has.
_KINDS: tuple[tuple[str, ...], ...] = ((".safetensors",), (".gguf",), (".bin",), (".pt", ".pth", ".ckpt", ".pkl"))
_WEIGHTS = tuple(suffix for kind in _KINDS for suffix in kind)

#: Copies of the weights for other runtimes, and files left over from training.
_COPIES = re.compile(
    r"(^|/)(onnx|openvino|coreml|flax|tf|original|metal|checkpoint-\d+)/"
    r"|\.(h5|msgpack|ot|onnx|onnx_data|tflite|mlmodel)$"
    r"|(^|/)(openvino_\w+\.\w+|training_args\.bin|optimizer\.\w+|scheduler\.pt|rng_state\w*\.pth|\.gitattributes)$"
)
SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_VARIANT = re.compile(r"(\.(fp16|bf16|fp32|fp8|non_ema|ema))+$")


def names_in(folder: Path, roots: Sequence[Path] = ()) -> list[str]:
    """The files of a folder that a model can be loaded from."""
    try:
        return without_copies(headers.files_in(str(folder), tuple(str(root.expanduser()) for root in roots)))
    except headers.Unreadable as reason:
        raise errors.LoadFailed(f"{folder} {reason}.") from None


def without_copies(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if not _COPIES.search(name))


def weight_set(names: Iterable[str], variant: str = "") -> list[str]:
    """One set of weights: the safest kind of each folder, in one precision, without copies."""
    folders: dict[str, list[str]] = {}
    pipelines = set()
    for name in names:
        path = PurePosixPath(name)
        if path.name == "model_index.json":
            pipelines.add(str(path.parent))
        elif name.endswith(_WEIGHTS):
            folders.setdefault(str(path.parent), []).append(name)
    # A pipeline is loaded from its components' folders; weights beside those folders are the same in one file.
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
        unsplit = [name for name in files if not SHARD.search(PurePosixPath(name).stem)]
        chosen += unsplit or files
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
    """Which of a repository's files are fetched: one set of weights, and every file that is not weights."""
    if patterns is None:
        candidates = [name for name in names if not _COPIES.search(name)]
    else:
        candidates = [name for name in names if _matches(name, patterns)]
        if not candidates:
            raise errors.DownloadFailed(f"{model} has no file that matches {', '.join(patterns)}.")
    if gguf:
        candidates = [name for name in candidates if not name.endswith((".safetensors", *PICKLES))]
    weights = weight_set(candidates, variant)
    ggufs = sorted({SHARD.sub("", PurePosixPath(name).stem) for name in headers.models_in(weights)})
    if patterns is None and len(ggufs) > 1:
        raise errors.DownloadFailed(f"{model} has {len(ggufs)} GGUF models ({', '.join(ggufs)}): ask for one of them.")
    if not allow_pickle:
        weights = _without_pickles(model, candidates, weights)
    return [name for name in candidates if name in weights or not name.endswith(_WEIGHTS)]


def _without_pickles(model: str, names: Sequence[str], weights: Sequence[str]) -> list[str]:
    """The weights that are safe to load, or an error if a part of the model has none that are."""
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
