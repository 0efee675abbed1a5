"""The last routing table that an ingress of this machine took, for one that starts while the supervisor says nothing.

The file goes with the run of Ray that it is of: what it names are that run's workers.
"""

from __future__ import annotations

import fcntl
import logging
import os
import pickle
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import ray

from cluster.routes import Amendment, ModelRoutes, Snapshot, amended
from cluster.runtime.place import Place
from cluster.settings import Settings

#: So many bytes of changes are appended before the whole table is written again, or as many as the table has.
LEAST_ROOM = 64 * 1024

log = logging.getLogger("cluster.runtime.last_table")


class LastTable:
    def __init__(self, path: Path, actor: Callable[[str], Any]) -> None:
        """`actor` is the handle of the worker of a name; it raises ValueError where there is none."""
        self._path = path
        self._actor = actor
        #: Held by the ingress that writes.
        self._lock: BinaryIO | None = None
        #: The file that it wrote last, the version in it, and how much may still be appended.
        self._file: BinaryIO | None = None
        self._version: int | None = None
        self._room = 0

    @classmethod
    def of(cls, settings: Settings) -> LastTable:
        return cls(Place(settings).temp / "routes", lambda name: ray.get_actor(name, settings.namespace))

    def write(self, snapshot: Snapshot, changes: Sequence[Amendment] = ()) -> None:
        """The table, or where an earlier version of it is in the file already only the changes that led to it. One
        ingress of the machine does it, as long as it lives; then another takes over."""
        try:
            if not self._is_the_writer():
                return
            if changes and self._appended(changes):
                return
            self._replace(snapshot)
        except OSError as error:
            log.info("the routing table was not written down: %s", error)

    def _is_the_writer(self) -> bool:
        if self._lock is None:
            lock = open(self._path.with_name(f"{self._path.name}.lock"), "ab", opener=_for_its_owner)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                return False
            self._lock = lock
        return True

    def _appended(self, changes: Sequence[Amendment]) -> bool:
        """False where they do not go on from what is in the file, or the file has become long by now."""
        if self._file is None or self._version != changes[0].since or self._room <= 0:
            return False
        data = b"".join(pickle.dumps(replace(change, handles={})) for change in changes)
        self._version = None  # until all of it is written
        self._file.write(data)
        self._room -= len(data)
        self._version = changes[-1].version
        return True

    def _replace(self, snapshot: Snapshot) -> None:
        """All of it but the handles, which are good for the process that has them."""
        own = self._path.with_name(f"{self._path.name}-{os.getpid()}")
        data = pickle.dumps(replace(snapshot, handles={}))
        file = open(own, "wb", buffering=0, opener=_for_its_owner)
        try:
            file.write(data)
            own.replace(self._path)
        except OSError:
            file.close()
            raise
        if self._file is not None:
            self._file.close()
        self._file, self._version = file, snapshot.version
        self._room = max(len(data), LEAST_ROOM)

    def close(self) -> None:
        """Another may write it from now on."""
        for file in filter(None, (self._file, self._lock)):
            file.close()
        self._file = self._lock = None

    def read(self) -> Snapshot | None:
        """With the workers that are still there; None where nobody has written it down."""
        try:
            with self._path.open("rb") as file:
                snapshot = _read(file)
        except FileNotFoundError:
            return None
        # Whatever another version or a full disk has left there, the supervisor will be heard of.
        except Exception as error:
            log.warning("the routing table that was written down cannot be read: %s", error)
            return None
        if snapshot is None:
            return None
        handles = {}
        for name in {route.worker for model in snapshot.models.values() for route in model.workers}:
            try:
                handles[name] = self._actor(name)
            except ValueError:
                log.info("%s is in the last routing table and not there any more", name)
        models = {uid: _with_workers_of(model, handles) for uid, model in snapshot.models.items()}
        return replace(snapshot, models=models, handles=handles)


def _read(file: BinaryIO) -> Snapshot | None:
    snapshot = pickle.load(file)
    if not isinstance(snapshot, Snapshot):
        return None
    # The last change may have been cut off.
    with suppress(EOFError, pickle.UnpicklingError):
        while isinstance(change := pickle.load(file), Amendment) and change.since == snapshot.version:
            snapshot = amended(snapshot, change)
    return snapshot


def _for_its_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _with_workers_of(model: ModelRoutes, handles: dict[str, Any]) -> ModelRoutes:
    return replace(model, workers=tuple(route for route in model.workers if route.worker in handles))
