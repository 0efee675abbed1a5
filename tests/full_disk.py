"""Full disks: a real one for a test, and a store that behaves as if its disk were full."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.control.sqlite_store import SqliteStore


@contextmanager
def unwritable(store: SqliteStore) -> Iterator[None]:
    """Makes SQLite refuse every write, as it does on a full disk."""
    connections = (store._db, store._past)
    for connection in connections:
        connection.execute("PRAGMA query_only=ON")
    try:
        yield
    finally:
        for connection in connections:
            connection.execute("PRAGMA query_only=OFF")


class SmallDisk:
    def __init__(self, root: Path) -> None:
        self.root = root
        self._ballast = root / "ballast"

    def fill(self) -> None:
        """Fills the disk to the last byte."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (65536, 4096, 1):
                try:
                    while file.write(b"x" * size) == size:
                        continue
                except OSError:
                    continue

    def empty(self) -> None:
        self._ballast.unlink()


@contextmanager
def small_disk(root: Path, size: str) -> Iterator[SmallDisk]:
    root.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", root], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield SmallDisk(root)
    finally:
        subprocess.run(["umount", "--lazy", root], check=True)
