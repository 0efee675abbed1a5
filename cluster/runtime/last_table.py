"""The last routing table that an ingress of this machine took, for one that starts while the supervisor says nothing.

The file goes with the run of Ray that it is of: what it names are that run's workers.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from cluster.routes import ModelRoutes, Snapshot
from cluster.runtime.place import Place
from cluster.settings import Settings

log = logging.getLogger("cluster.runtime.last_table")


class LastTable:
    def __init__(self, path: Path, actor: Callable[[str], Any]) -> None:
        """`actor` is the handle of the worker of a name; it raises ValueError where there is none."""
        self._path = path
        self._actor = actor

    @classmethod
    def of(cls, settings: Settings) -> LastTable:
        return cls(Place(settings).temp / "routes", lambda name: ray.get_actor(name, settings.namespace))

    def write(self, snapshot: Snapshot) -> None:
        """All of it but the handles, which are good for the process that has them."""
        own = self._path.with_name(f"{self._path.name}-{os.getpid()}")
        try:
            with os.fdopen(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                pickle.dump(replace(snapshot, handles={}), file)
            own.replace(self._path)
        except OSError as error:
            log.info("the routing table was not written down: %s", error)

    def read(self) -> Snapshot | None:
        """With the workers that are still there; None where nobody has written it down."""
        try:
            snapshot = pickle.loads(self._path.read_bytes())
        except FileNotFoundError:
            return None
        # Whatever another version or a full disk has left there, the supervisor will be heard of.
        except Exception as error:
            log.warning("the routing table that was written down cannot be read: %s", error)
            return None
        if not isinstance(snapshot, Snapshot):
            return None
        handles = {}
        for name in {route.worker for model in snapshot.models.values() for route in model.workers}:
            try:
                handles[name] = self._actor(name)
            except ValueError:
                log.info("%s is in the last routing table and not there any more", name)
        models = {uid: _with_workers_of(model, handles) for uid, model in snapshot.models.items()}
        return replace(snapshot, models=models, handles=handles)


def _with_workers_of(model: ModelRoutes, handles: dict[str, Any]) -> ModelRoutes:
    return replace(model, workers=tuple(route for route in model.workers if route.worker in handles))
