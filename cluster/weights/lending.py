"""What this node hands to others of the weights that it has: files of a hub's cache, by their digests only."""

from __future__ import annotations

import fcntl
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from cluster import errors
from cluster.catalog.entry import Source
from cluster.weights.download import RepositoryCache
from cluster.weights.hubs import HUBS, RemoteFile
from cluster.weights.neighbours import Holding

#: Large enough for a network to be the limit, small enough for several on their way to fit into Ray's object store.
PIECE_BYTES = 4 * 2**20
#: A file that is being fetched here is handed on as it grows; so long may it not grow before the other one goes on
#: elsewhere.
GROWTH_S = 5.0
LOOK_S = 0.1


def holding_of(node: str, home: Path, source: Source, files: Sequence[RemoteFile]) -> Holding:
    cache = _cache_of(source, home, files)
    commits = [path.stem for path in cache.folder.glob("listings/*.json")]
    wanted = {file.digest for commit in commits for file in cache.wanted(commit)}
    sizes = {file.digest: cache.bytes_of(file) for file in files}
    return Holding(node, {key: size for key, size in sizes.items() if key in wanted}, _is_fetching(cache))


def pieces(home: Path, source: Source, file: RemoteFile, start: int, growth_s: float = GROWTH_S) -> Iterator[bytes]:
    """The bytes from `start` on; they end early when the file does not grow any more."""
    cache = _cache_of(source, home, [file])
    content: BinaryIO | None = None
    grown = time.monotonic()
    try:
        while start < file.size and time.monotonic() - grown < growth_s:
            content = content or _opened(cache, file, start)
            piece = content.read(min(PIECE_BYTES, file.size - start)) if content else b""
            if not piece:
                time.sleep(LOOK_S)
                continue
            start += len(piece)
            yield piece
            # Whoever takes it may be slow.
            grown = time.monotonic()
    finally:
        if content is not None:
            content.close()


def _opened(cache: RepositoryCache, file: RemoteFile, start: int) -> BinaryIO | None:
    # The partial file first, as it becomes the other one: what is open then goes on under its new name.
    for path in (cache.partial(file), cache.blob(file)):
        try:
            content = path.open("rb")
        except FileNotFoundError:
            continue
        content.seek(start)
        return content
    return None


def _cache_of(source: Source, home: Path, files: Sequence[RemoteFile]) -> RepositoryCache:
    """Digests become names of files."""
    if source.hub not in HUBS or not all(re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", file.digest) for file in files):
        raise errors.BadRequest("Only files that a hub lists are handed on.")
    return RepositoryCache.of(source, home)


def _is_fetching(cache: RepositoryCache) -> bool:
    try:
        with (cache.folder / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False
