"""A repository's files on disk: a cache that survives being killed at any moment, and the download that fills it.

The cache is laid out as huggingface_hub lays it out, which can therefore read it:

    <home>/weights/<hub>/models--<owner>--<name>/
        blobs/<digest>            a verified file; <digest>.incomplete while it grows
        snapshots/<commit>/       the files under their names, as links to blobs
        listings/<commit>.json    the files that the hub has, and which of them are wanted
        refs/<revision>           the commit of the last complete download of that revision
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from cluster import errors
from cluster.catalog.entry import Source
from cluster.paths import folder_under
from cluster.status import LoadProgress
from cluster.value import JsonObject
from cluster.weights.hubs import Hub, Listing, RemoteFile, is_busy, name_of, refusal
from cluster.weights.neighbours import Holding, Neighbours, NoNeighbours, provider

log = logging.getLogger("cluster.weights.download")

#: Files fetched at once: enough to use the whole bandwidth, few enough not to be throttled.
PARALLEL_FILES = 4
REPORT_EVERY_S = 0.2
#: For so long it counts what other nodes said that they have.
HOLDINGS_S = 30.0
#: A file is given up after so many attempts in a row without a byte; their pauses double, to half a minute in all.
FRUITLESS_ATTEMPTS = 7

Listener = Callable[[LoadProgress], None]


class RepositoryCache:
    """One repository on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of(cls, source: Source, home: Path) -> RepositoryCache:
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source.id) or ".." in source.id or "--" in source.id:
            raise errors.BadRequest(f"{source.id!r} is not the name of a repository, which looks like owner/name.")
        return cls(home / "weights" / source.hub / f"models--{source.id.replace('/', '--')}")

    def snapshot(self, commit: str) -> Path:
        return self.folder / "snapshots" / commit

    def blob(self, file: RemoteFile) -> Path:
        return self.folder / "blobs" / file.digest

    def partial(self, file: RemoteFile) -> Path:
        return self.folder / "blobs" / f"{file.digest}.incomplete"

    def bytes_of(self, file: RemoteFile) -> int:
        # The partial file first: it becomes the blob, and a blob never becomes partial again.
        for path in (self.partial(file), self.blob(file)):
            try:
                return min(path.stat().st_size, file.size)
            except FileNotFoundError:
                pass
        return 0

    def stores(self, file: RemoteFile) -> bool:
        # Compare the size too: after a power failure a file may have its name but not its end.
        blob = self.blob(file)
        return blob.is_file() and blob.stat().st_size == file.size

    def has(self, commit: str, file: RemoteFile) -> bool:
        link = self.snapshot(commit) / file.name
        try:
            return Path(os.readlink(link)).name == file.digest and self.stores(file)
        except OSError:
            return False

    def link(self, commit: str, file: RemoteFile) -> None:
        link = self.snapshot(commit) / file.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(self.blob(file), link.parent))

    def commit_of(self, revision: str) -> str | None:
        if (self.folder / "listings" / f"{revision}.json").is_file():
            return revision
        try:
            return folder_under(self.folder / "refs", revision).read_text()
        except OSError:
            return None

    def point(self, revision: str, commit: str) -> None:
        if revision != commit:
            _write(folder_under(self.folder / "refs", revision), commit)

    def listing(self, commit: str) -> Listing | None:
        record = self._record(commit)
        return Listing(commit, tuple(RemoteFile(*row) for row in record["files"])) if record else None

    def wanted(self, commit: str) -> list[RemoteFile]:
        record = self._record(commit) or {"files": [], "wanted": []}
        return [RemoteFile(*row) for row in record["files"] if row[0] in record["wanted"]]

    def _record(self, commit: str) -> JsonObject | None:
        try:
            record: JsonObject = json.loads(folder_under(self.folder / "listings", f"{commit}.json").read_text())
            return record
        except (OSError, ValueError):
            return None

    def remember(self, listing: Listing, wanted: Sequence[RemoteFile]) -> None:
        names = {file.name for file in (*wanted, *self.wanted(listing.commit))}
        files = [(file.name, file.size, file.digest) for file in listing.files]
        text = json.dumps({"files": files, "wanted": sorted(names)})
        _write(self.folder / "listings" / f"{listing.commit}.json", text)

    @contextmanager
    def locked(self, while_waiting: Callable[[], None]) -> Iterator[None]:
        """Allows one download of a repository at a time; a killed process releases the lock."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    while_waiting()
                    time.sleep(REPORT_EVERY_S)
            yield


def _write(path: Path, text: str) -> None:
    """Replaces the file at once, so that a reader sees the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(text)
    os.replace(fresh, path)


class _Stopped(Exception):
    """Another file failed, or the listener stopped the download."""


@dataclass
class Download:
    """Fetches the wanted files of a listing that the cache does not have yet."""

    client: httpx.Client
    hub: Hub
    source: Source
    cache: RepositoryCache
    listing: Listing
    wanted: Sequence[RemoteFile]
    report: Listener
    neighbours: Neighbours = field(default_factory=NoNeighbours)
    patience: int = FRUITLESS_ATTEMPTS
    stop: threading.Event = field(default_factory=threading.Event)
    _looking: threading.Lock = field(default_factory=threading.Lock)
    _looked: float = float("-inf")
    _holdings: Sequence[Holding] = ()

    def run(self) -> None:
        cache, commit = self.cache, self.listing.commit
        try:
            with cache.locked(while_waiting=self._report_progress):
                cache.remember(self.listing, self.wanted)
                self._check_space()
                self._fetch_all()
                for file in self.wanted:
                    if not cache.has(commit, file):
                        cache.link(commit, file)
                cache.point(self.source.revision or self.hub.branch, commit)
        except OSError as error:
            raise self._disk_failure(error) from error

    def _report_progress(self) -> None:
        sizes = [(file.name, self.cache.bytes_of(file), file.size) for file in self.wanted]
        done, total = sum(size[1] for size in sizes), sum(size[2] for size in sizes)
        files = tuple(dict(zip(("name", "done", "total"), size, strict=True)) for size in sizes)
        self.report(LoadProgress("downloading", done / total if total else 1.0, done, total, files))

    def _fetch_all(self) -> None:
        self._report_progress()
        with ThreadPoolExecutor(PARALLEL_FILES, "download") as threads:
            pending = {threads.submit(self._fetch, file) for file in self._missing()}
            try:
                while pending:
                    done, pending = wait(pending, REPORT_EVERY_S, FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    self._report_progress()
            finally:
                self.stop.set()
                threads.shutdown(cancel_futures=True)

    def _missing(self) -> list[RemoteFile]:
        """Each content once, however many names it has."""
        files = {file.digest: file for file in self.wanted}.values()
        return [file for file in files if not self.cache.stores(file)]

    def _fetch(self, file: RemoteFile) -> None:
        partial = self.cache.partial(file)
        partial.parent.mkdir(parents=True, exist_ok=True)
        if self._take(file, partial) and self._stored(file, partial):
            return
        for _ in range(2):
            self._receive(file, partial)
            if self._stored(file, partial):
                return
        raise errors.DownloadFailed(
            f"{file.name} of {name_of(self.source)} is corrupt: {self.hub.endpoint} twice sent data that does not "
            "match its listing; launch again later or use another revision."
        )

    def _stored(self, file: RemoteFile, partial: Path) -> bool:
        if _is_intact(file, partial):
            os.replace(partial, self.cache.blob(file))
            return True
        partial.unlink()
        log.warning("%s of %s arrived damaged", file.name, name_of(self.source))
        return False

    def _take(self, file: RemoteFile, partial: Path) -> bool:
        """Continues the partial file with what other nodes have of it; False where the hub has to go on."""
        asked: set[str] = set()
        looked = time.monotonic() - HOLDINGS_S
        while (size := _size(partial)) < file.size:
            node = provider(self.neighbours.own, size, file, self._look_around(looked), asked)
            if node is None:
                return False
            asked.add(node)
            try:
                self._append(self.neighbours.pieces(node, self.source, file, size), file, partial)
            except errors.ClusterError as error:
                log.warning("node %s gives no more of %s: %s", node, file.name, error)
            log.info("%s of %s came from node %s", human(_size(partial) - size), file.name, node)
            looked = time.monotonic()
        return partial.exists()

    def _look_around(self, since: float) -> Sequence[Holding]:
        """What other nodes have; asked anew if it was last asked before `since`."""
        with self._looking:
            if self._looked < since:
                self._holdings = self.neighbours.holdings(self.source, self._missing())
                self._looked = time.monotonic()
            return self._holdings

    def _append(self, pieces: Iterator[bytes], file: RemoteFile, partial: Path) -> None:
        with partial.open("ab") as out:
            for piece in pieces:
                if self.stop.is_set():
                    raise _Stopped
                out.write(piece[: file.size - out.tell()])
            out.flush()
            # As below.
            os.fsync(out.fileno())

    def _receive(self, file: RemoteFile, partial: Path) -> None:
        """Continues the partial file until it has the size that the hub lists."""
        revision = self.source.revision or self.hub.branch
        url = self.hub.file_url(self.source.id, self.listing.commit, revision, file.name)
        most = fruitless = 0
        while not partial.exists() or partial.stat().st_size < file.size:
            reason = self._receive_once(url, file, partial)
            size = _size(partial)
            fruitless = 0 if size > most else fruitless + 1
            most = max(most, size)
            if fruitless == self.patience:
                raise errors.DownloadFailed(
                    f"{file.name} of {name_of(self.source)} came no further than {human(size)} of {human(file.size)} "
                    f"from {self.hub.endpoint} ({reason}): launch again to go on from there."
                )
            if fruitless and self.stop.wait(0.25 * 2**fruitless):
                raise _Stopped

    def _receive_once(self, url: str, file: RemoteFile, partial: Path) -> str:
        """Returns why the connection ended, in case the file is not complete."""
        start = _size(partial)
        try:
            with self.client.stream("GET", url, headers={"Range": f"bytes={start}-"} if start else {}) as response:
                if is_busy(response):
                    return f"it answers {response.status_code}"
                if response.status_code == 416:
                    partial.unlink()
                    return "it has less than it lists"
                if not response.is_success:
                    raise refusal(self.hub, self.source, response)
                continues = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
                with partial.open("ab" if start and continues else "wb") as out:
                    for chunk in response.iter_bytes():
                        if self.stop.is_set():
                            raise _Stopped
                        out.write(chunk)
                        if out.tell() > file.size:
                            break
                    out.flush()
                    # The file gets its final name when it is complete, so it must be complete on the disk first.
                    os.fsync(out.fileno())
        except httpx.RequestError as error:
            return str(error) or type(error).__name__
        return "the connection ended early"

    def _missing_bytes(self) -> int:
        return sum(file.size - self.cache.bytes_of(file) for file in self._missing())

    def _check_space(self) -> None:
        if self._missing_bytes() > shutil.disk_usage(self.cache.folder).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _disk_failure(self, error: OSError) -> Exception:
        name, folder = name_of(self.source), self.cache.folder
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = human(shutil.disk_usage(folder).free)
            return errors.DownloadFailed(
                f"{name} needs {human(self._missing_bytes())} more but {folder} has {free} free: make room or set "
                "CLUSTER_HOME to a larger disk; what was fetched is kept."
            )
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOTDIR):
            return errors.DownloadFailed(f"{name} cannot be stored in {folder}: {error.strerror}.")
        return error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_intact(file: RemoteFile, path: Path) -> bool:
    if path.stat().st_size != file.size:
        return False
    with path.open("rb") as content:
        if len(file.digest) == 64:
            return hashlib.file_digest(content, "sha256").hexdigest() == file.digest
        blob = hashlib.sha1(b"blob %d\0" % file.size)
        return hashlib.file_digest(content, lambda: blob).hexdigest() == file.digest


def human(size: float) -> str:
    """1234567 is 1.2 MB."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
