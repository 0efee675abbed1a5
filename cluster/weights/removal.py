"""What was downloaded to a disk, with its files, and how it is taken off."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from cluster.weights.download import RepositoryCache
from cluster.weights.locate import CachedModel, cached

#: What names weights on every node: their hub, repository and commit.
Key = tuple[str, str, str]


class StoredModel(NamedTuple):
    model: CachedModel
    files: list[Path]

    @property
    def key(self) -> Key:
        return self.model.hub, self.model.id, self.model.revision


class Disk(NamedTuple):
    """What one node has."""

    ip: str
    models: list[StoredModel]


def stored(home: Path) -> list[StoredModel]:
    return [StoredModel(model, files_of(model)) for model in cached(home)]


def remove_stored(home: Path, keys: Collection[Key]) -> None:
    """By what is there, not by a path that somebody names."""
    for there in stored(home):
        if there.key in keys:
            remove(there.model)


def files_of(model: CachedModel) -> list[Path]:
    """The files of a revision that are there."""
    return [path for path in sorted(model.path.rglob("*")) if path.is_file()]


def remove(model: CachedModel) -> None:
    """Removes a revision, and of the files that several revisions share those that no other one has."""
    folder = model.path.parent.parent
    cache = RepositoryCache(folder)
    commits = {path.stem for path in folder.glob("listings/*.json")}
    others = commits - {model.revision}
    if not others:
        shutil.rmtree(folder)
        return
    kept = {file.digest for commit in others for file in cache.wanted(commit)}
    own = cache.wanted(model.revision)
    # First what says that it is there: whoever looks meanwhile finds nothing, not half of it.
    (folder / "listings" / f"{model.revision}.json").unlink(missing_ok=True)
    shutil.rmtree(cache.snapshot(model.revision), ignore_errors=True)
    for file in own:
        if file.digest not in kept:
            cache.blob(file).unlink(missing_ok=True)
            cache.partial(file).unlink(missing_ok=True)
