"""Waits for workers: of models that have lost theirs, and of models that sleep, which it wakes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from cluster import errors
from cluster.routes import ModelRoutes
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.status import ModelState
from deployments.ingress.routing import RouteTable

log = logging.getLogger("cluster.ingress")

#: While the supervisor does not answer it is asked again after this pause, and so many times.
RETRY_S = 1.0
#: The next worker of a model may take longer to load than the last one did.
SLOWER = 2.0
MOST_TRIES = 60


class Patience:
    def __init__(
        self, table: RouteTable, supervisor: SupervisorClient, hold_s: float, changed: Callable[[], asyncio.Event]
    ) -> None:
        """`changed`: set when the table next changes."""
        self._table = table
        self._supervisor = supervisor
        self._hold_s = hold_s
        self._changed = changed
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def usable(
        self, model: ModelRoutes, tried: set[str], deadline: float, refusal: errors.ClusterError | None
    ) -> ModelRoutes:
        """The model with a worker to send to. Waits a while for one that has served before and lost its last worker,
        and until the deadline for one that slept."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            # The table may have changed since the caller looked: only what it lists now has a queue.
            model = self._table.latest(model)
            if self._table.is_usable(model, tried):
                return model
            if model.is_asleep:
                self._wake(model.uid)
            patience = deadline if model.rests else min(deadline, began + self._held_s(model))
            is_full = isinstance(refusal, errors.Overloaded)
            returns = model.recovering or model.rests
            if is_full or not returns or loop.time() >= patience:
                if refusal is not None and (is_full or not returns):
                    raise refusal
                if not self._table.is_usable(model):
                    raise self._table.why_not(model)
                return model
            try:
                await asyncio.wait_for(self._changed().wait(), patience - loop.time())
            except TimeoutError:
                continue
            # A worker that was unavailable may only have been slow: if the new table still lists it, ask it again.
            if isinstance(refusal, errors.Unavailable):
                tried.clear()

    def _held_s(self, model: ModelRoutes) -> float:
        """How long a request waits for a model that lost its last worker: until the next can be there, if it loads."""
        loads_s = model.wake_s if model.state == ModelState.LOADING and model.wake_s else 0.0
        return max(self._hold_s, SLOWER * loads_s)

    def _wake(self, uid: str) -> None:
        """Each model once, however many requests wait for it, and to the end: the caller may go away."""
        if uid not in self._asking:
            asking = self._asking[uid] = asyncio.get_running_loop().create_task(self._ask(uid), name=f"wake {uid}")
            asking.add_done_callback(lambda _: self._asking.pop(uid, None))

    async def _ask(self, uid: str) -> None:
        for _ in range(MOST_TRIES):
            try:
                await self._supervisor.wake(uid)
                return
            except errors.Unavailable as error:
                log.warning("%s cannot be woken yet: %s", uid, error)
                await asyncio.sleep(RETRY_S)
            except errors.ClusterError as error:
                log.warning("%s cannot be woken: %s", uid, error)
                return
