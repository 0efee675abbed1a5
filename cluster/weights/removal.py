"""Takes downloaded weights off the disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from cluster.weights.download import RepositoryCache
from cluster.weights.locate import CachedModel


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
