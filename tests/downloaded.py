"""Small weights where those of a hub's models lie once they are downloaded, so that a launch by the models' own names
finds them there."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from cluster.catalog.catalog import Catalog
from cluster.catalog.entry import Source
from cluster.weights.download import RepositoryCache
from cluster.weights.hubs import HUBS, Listing, RemoteFile


def put(home: Path, source: Source, folder: Path) -> None:
    """All files of the folder, as the source's repository."""
    cache = RepositoryCache.of(source, home)
    commit = source.revision or hashlib.sha1(source.id.encode()).hexdigest()
    rows = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        row = RemoteFile(name, path.stat().st_size, hashlib.sha1(name.encode()).hexdigest())
        cache.blob(row).parent.mkdir(parents=True, exist_ok=True)
        cache.blob(row).unlink(missing_ok=True)
        shutil.copyfile(path, cache.blob(row))
        cache.link(commit, row)
        rows.append(row)
    cache.remember(Listing(commit, tuple(rows)), rows)
    cache.point(HUBS[source.hub].branch, commit)


def put_model(home: Path, name: str, type: str, folder: Path) -> None:
    """As what the catalogue has under that name."""
    sources = Catalog.builtin().find(name, type).sources
    put(home, next(source for source in sources if source.hub == "huggingface"), folder)
