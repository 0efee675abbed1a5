"""How long models stay after a request, where their callers say so as Ollama's do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Iterator
from typing import Any

from cluster import errors
from cluster.durations import AT_ONCE_S, idle_limit_s, keep_alive_s
from cluster.keys import Key
from cluster.routes import ModelRoutes
from cluster.runtime.supervisor_client import SupervisorClient
from deployments.ingress.routing import RouteTable

log = logging.getLogger("cluster.ingress")


def read_keep_alive(value: Any, key: Key | None) -> float | None:
    """Seconds, infinite for ever. None where nothing is said, or by somebody who may ask models and no more: how long
    they stay concerns everybody."""
    if value is None or value == "":
        return None
    try:
        seconds = keep_alive_s(value)
    except ValueError as error:
        raise errors.InvalidBody(f"{error}.", "keep_alive") from None
    return seconds if may_decide(key) else None


def may_decide(key: Key | None) -> bool:
    return key is None or bool({"launch", "admin"} & set(key.scopes))


class KeepAlive:
    """Tells the supervisor, and lets nobody wait for that."""

    def __init__(self, table: RouteTable, supervisor: SupervisorClient) -> None:
        self._table = table
        self._supervisor = supervisor
        self._tasks: set[asyncio.Task[None]] = set()
        #: What was told of a model last, until the table says so as well.
        self._told: dict[str, float] = {}

    def answered(self, uid: str, seconds: float | None) -> None:
        """A request is over, after which its model is to stay so long."""
        model = self._table.models.get(uid)
        if seconds is None or model is None:
            return
        limit_s = idle_limit_s(seconds)
        if model.sleep_s == limit_s == self._told.get(uid, limit_s):
            self._told.pop(uid, None)
            return
        self._told[uid] = limit_s
        telling = asyncio.ensure_future(self._tell(uid, limit_s))
        self._tasks.add(telling)
        telling.add_done_callback(self._tasks.discard)

    async def _tell(self, uid: str, sleep_s: float) -> None:
        try:
            await self._supervisor.keep(uid, sleep_s)
        except errors.ClusterError as error:
            log.warning("the supervisor was not told how long %s stays: %s", uid, error)

    async def unload(self, model: ModelRoutes, key: Key | None) -> None:
        if not may_decide(key):
            raise errors.NotPermitted(f"The key may ask {model.uid}, and not unload it: that needs the scope launch.")
        await self._supervisor.sleep(model.uid)

    async def left_s(self) -> dict[str, float]:
        """How long models stay yet if nobody asks for them, infinite for ever; without those that sleep."""
        left = await self._supervisor.left_s()
        return {uid: math.inf if seconds is None else seconds for uid, seconds in left.items()}

    @contextlib.contextmanager
    def after(self, uid: str, seconds: float | None) -> Iterator[None]:
        """A request is under way within it. Also one that fails has used its model."""
        try:
            yield
        finally:
            self.answered(uid, seconds)


def unloads(seconds: float | None) -> bool:
    """Whether a request that asks nothing else asks for that."""
    return seconds is not None and seconds < AT_ONCE_S
