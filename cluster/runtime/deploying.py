"""Puts the supervisor and the ingress onto a Ray that runs.

It does so in a process of its own, `cluster.runtime.serving`, and Ray's libraries go when that process ends: neither a
command that waits for Ctrl-C nor the watchdog needs to keep their 100 MB.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from cluster import errors
from cluster.control.sqlite_store import SqliteStore
from cluster.keys import Key, new_key
from cluster.runtime.connection import variables_for
from cluster.runtime.place import Place
from cluster.settings import Settings

#: The program that serves, with the ingress of the installed model types.
DEPLOY = "deployments.ingress.deploy"
SERVE_TIMEOUT_S = 300.0


def serve_apart(settings: Settings, address: str, place: Place, ingress_nodes: int) -> str | None:
    """Returns a new admin key when one had to be made."""
    try:
        with place.log.open("ab") as log:
            done = subprocess.run(
                [sys.executable, "-m", DEPLOY],
                input=pickle.dumps((settings, address, ingress_nodes)),
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **variables_for(address)},
                start_new_session=True,
                timeout=SERVE_TIMEOUT_S,
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise errors.Unavailable(f"Nothing is served after {SERVE_TIMEOUT_S:.0f} s; see {place.log}.") from None
    if done.returncode:
        tail = place.log.read_text(errors="replace").splitlines()[-1:]
        raise errors.Unavailable(f"Nothing could be served; {place.log} ends with: {' '.join(tail)}")
    outcome: str | errors.ClusterError | None = pickle.loads(done.stdout)
    if isinstance(outcome, errors.ClusterError):
        raise outcome
    return outcome


def admit(settings: Settings, text: str) -> None:
    """Stores a key that was made elsewhere. It always has the same id, so that another one replaces it."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    key: Key = new_key("admin", ["admin"])[0].model_copy(update={"id": "given", "digest": digest})
    store = SqliteStore(settings.store)
    try:
        last = store.get("key", key.id)
        if last is None or last["digest"] != digest:
            store.put("key", key.id, key.model_dump(mode="json"))
    finally:
        store.close()


def made_with(place: Place) -> Path:
    """Says with which settings this home served last."""
    return place.run / "supervisor.settings"


def is_current(settings: Settings, ingress_nodes: int, place: Place) -> bool:
    """Whether this home last served with the same settings as now."""
    last = made_with(place)
    return last.exists() and last.read_text() == _digest(settings, ingress_nodes)


def remember(settings: Settings, ingress_nodes: int, place: Place) -> None:
    made_with(place).write_text(_digest(settings, ingress_nodes))


def _digest(settings: Settings, ingress_nodes: int) -> str:
    """Changes with everything that the supervisor and the ingresses are started with."""
    text = f"{settings.model_dump_json()} {ingress_nodes} {metadata.version('model-cluster')}"
    return hashlib.sha256(text.encode()).hexdigest()
