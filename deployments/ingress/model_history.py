"""Asks all workers once a second what they have counted, and keeps what that makes for a day.

The workers count what comes to them from every ingress, so each ingress has all of it by itself, since it began:
nothing has to be put together when somebody looks, and no request is counted twice. No request waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from cluster.figures import Figures, Happened, all_of, between
from cluster.keys import Key, models_of
from cluster.runtime.worker_client import WorkerClient
from cluster.status import WorkerName
from deployments.ingress.asking import asked
from deployments.ingress.dispatch import Dispatcher
from deployments.ingress.rings import COARSE_S, FINE_S, FINE_STEPS, Rings, Steps, added

log = logging.getLogger("cluster.ingress")

#: Up to so many workers are asked every second; of more, those that work or are looked at, and the others at the end of
#: each coarse step.
ALL_WORKERS = 50
#: How long a worker has to say what it has counted.
WORKER_S = 0.8
#: Models of which it is kept what they did, 0.2 MB each; of more, of those that worked last.
MOST_MODELS = 200
#: How long after somebody has looked a model is asked every second.
LOOKED_AT_S = 10.0
#: How long after the end of a second it is asked about.
AFTER_S = 0.05


class WorkerPace(NamedTuple):
    """What a worker did lately, over so many seconds that end with `until`, and what it has counted by then."""

    happened: Happened
    seconds: int
    until: int
    figures: Figures


class ModelHistory:
    def __init__(self, dispatcher: Dispatcher, ingress: str, now: Callable[[], float] = time.time) -> None:
        self._dispatcher = dispatcher
        self._now = now
        self.ingress = ingress
        #: Since when it knows what happened; seconds since 1970.
        self.since = int(now())
        self._rings: dict[str, Rings] = {}
        self._all = Rings()
        self._looked_at: dict[str, float] = {}
        #: Of each worker, by its name.
        self.paces: dict[str, WorkerPace] = {}
        self._tick = asyncio.Event()
        #: The seconds that have been told of.
        self.ticks = 0
        self._task = asyncio.get_running_loop().create_task(self._follow(), name="model history")

    # ------------------------------------------------------------------------------------ who looks

    def steps(self, uid: str, since: int, step_s: int) -> Steps:
        """Those of a model that begin then or later."""
        self._looked_at[uid] = self._now()
        rings = self._rings.get(uid)
        return added([], step_s, since) if rings is None else rings.since(since, step_s)

    def all_steps(self, key: Key | None, since: int, step_s: int) -> Steps:
        """Of all models together that a key is for."""
        if models_of(key) is None:
            return self._all.since(since, step_s)
        uids = self._dispatcher.table.visible(key)
        return added([self._rings[uid].since(since, step_s) for uid in uids if uid in self._rings], step_s, since)

    def is_fine(self, since: int) -> bool:
        """Whether every second since then is kept."""
        return self._now() - since <= FINE_S * FINE_STEPS

    async def ticked(self) -> None:
        """Returns when the next second is told of."""
        await self._tick.wait()

    # ------------------------------------------------------------------------------------ the workers

    async def _follow(self) -> None:
        while True:
            # Timers may come a moment early, and then it would be the second before.
            await asyncio.sleep(1.0 + AFTER_S - self._now() % 1.0)
            try:
                await self.look(int(self._now()))
            # Whatever a worker of another version says, the others are told of in the next second.
            except Exception:
                log.exception("what models did in the last second is not known")
            self.ticks += 1
            tick, self._tick = self._tick, asyncio.Event()
            tick.set()

    async def look(self, until: int) -> None:
        """`until`: now."""
        clients = self._dispatcher.clients()
        self._forget_gone(clients)
        chosen = [name for name in clients if self._is_due(name, until, len(clients))]
        for name, figures in zip(chosen, await asked([clients[name] for name in chosen], _figures_of), strict=True):
            last = self.paces.get(name)
            if figures is None or (last is not None and until <= last.until):
                continue
            if last is None:
                # What it has counted before is of another time.
                self.paces[name] = WorkerPace(between(figures, figures), 1, until, figures)
            else:
                happened = between(last.figures, figures)
                self.paces[name] = WorkerPace(happened, until - last.until, until, figures)
        self._put(chosen, until)

    def _put(self, chosen: Iterable[str], until: int) -> None:
        by_model: dict[str, list[str]] = {}
        for name in self.paces:
            by_model.setdefault(_model_of(name), []).append(name)
        happenings: list[Happened] = []
        due = {_model_of(name) for name in chosen}
        for uid, workers in by_model.items():
            happened = all_of([self._lately(name, until) for name in workers])
            happenings.append(happened)
            if uid in due and (rings := self._rings_of(uid, happened)) is not None:
                rings.put(until, happened)
        self._all.put(until, all_of(happenings))

    def _lately(self, name: str, until: int) -> Happened:
        """What has not been told yet; of one that was not asked, or did not answer, only what is true for longer."""
        happened = self.paces[name].happened
        if self.paces[name].until == until:
            return happened
        return Happened(waiting=happened.waiting, running=happened.running, memory_bytes=happened.memory_bytes)

    def _rings_of(self, uid: str, happened: Happened) -> Rings | None:
        rings = self._rings.get(uid)
        if rings is None:
            if len(self._rings) >= MOST_MODELS:
                if not happened.is_busy:
                    return None
                # The first has done nothing for longest.
                del self._rings[next(iter(self._rings))]
            rings = self._rings[uid] = Rings()
        elif happened.is_busy:
            self._rings[uid] = self._rings.pop(uid)
        return rings

    def _is_due(self, name: str, until: int, workers: int) -> bool:
        if workers <= ALL_WORKERS or until % COARSE_S == 0 or name not in self.paces:
            return True
        looked_at = self._looked_at.get(_model_of(name), 0.0)
        return self.paces[name].happened.is_busy or self._now() - looked_at < LOOKED_AT_S

    def _forget_gone(self, clients: Mapping[str, WorkerClient]) -> None:
        for name in self.paces.keys() - clients.keys():
            del self.paces[name]
        models = self._dispatcher.table.models
        for uid in (self._rings.keys() | self._looked_at.keys()) - models.keys():
            self._rings.pop(uid, None)
            self._looked_at.pop(uid, None)


async def _figures_of(client: WorkerClient) -> Figures | None:
    return await client.figures(WORKER_S)


def _model_of(worker: str) -> str:
    name = WorkerName.parse(worker)
    return name.uid if name else ""
