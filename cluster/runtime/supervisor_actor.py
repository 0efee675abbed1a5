"""The supervisor as a Ray actor."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import sqlite3
import time

import ray

from cluster import errors
from cluster.control.sqlite_store import SqliteStore
from cluster.control.store_file import check_store
from cluster.control.supervisor import Supervisor
from cluster.runtime import heartbeat
from cluster.runtime.actor_calls import HEAD_RESOURCE, MANY, SUPERVISOR
from cluster.runtime.heartbeat import Heart
from cluster.runtime.place import Place
from cluster.runtime.platform import RayPlatform
from cluster.runtime.supervisor_calls import SupervisorCalls
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.settings import Settings
from cluster.worker.preload import Preload

log = logging.getLogger("cluster.supervisor_actor")

#: Pause between two attempts to open the store.
STORE_RETRY_S = 1.0


class SupervisorActor(Supervisor):
    """The supervisor in an actor. All that it needs is in its arguments and the store, so that Ray can restart it."""

    def __init__(self, settings: Settings, preload: Preload) -> None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        store, is_salvaged = _patiently_opened(settings)
        super().__init__(
            store,
            RayPlatform(settings, preload),
            settings,
            new_suffix=lambda: secrets.token_hex(4),
            is_salvaged=is_salvaged,
        )
        self.begin()
        self._life = asyncio.get_running_loop().create_task(self._show_life(), name="life")

    async def pid(self) -> int:
        return os.getpid()

    async def home(self) -> tuple[str, str, str]:
        """Which cluster this is: the id of its home, where that home is, and the URL it serves at."""
        settings = self._settings
        return Place(settings).id, f"{settings.home} on {socket.gethostname()}", settings.url

    async def _show_life(self) -> None:
        """Writes heartbeats from the event loop that does all other work too, so that they stop when it hangs."""
        heart = Heart(Place(self._settings).beats, "supervisor")
        while True:
            heart.beat()
            await asyncio.sleep(heartbeat.EVERY_S)


def _patiently_opened(settings: Settings) -> tuple[SqliteStore, bool]:
    """The store, and whether it had to be salvaged. It tries again for ever: an actor whose constructor raises is never
    restarted by Ray, and a full disk may have room again in a minute."""
    while True:
        try:
            notice = check_store(settings.store)
            if notice:
                log.error(notice)
            return SqliteStore(settings.store), bool(notice)
        except (OSError, sqlite3.Error, errors.ClusterError) as error:
            log.error("the store does not open, trying again: %s", error)
            time.sleep(STORE_RETRY_S)


#: If mypy complains about this line, the supervisor lacks a method that its clients call, or has other arguments.
_answering: type[SupervisorCalls] = SupervisorActor

_remote_supervisor = ray.remote(
    num_cpus=0, max_restarts=-1, max_task_retries=0, max_concurrency=MANY, resources={HEAD_RESOURCE: 0.001}
)(_answering)


def start_supervisor(settings: Settings, preload: Preload) -> SupervisorClient:
    """The running supervisor, or a new one."""
    return SupervisorClient(
        _remote_supervisor.options(
            name=SUPERVISOR, namespace=settings.namespace, lifetime="detached", get_if_exists=True
        ).remote(settings, preload)
    )
