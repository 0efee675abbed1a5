"""Collects what every process counts into one page of metrics."""

from __future__ import annotations

import asyncio

from cluster import errors
from cluster.control.fleet import Fleet
from cluster.control.fleet_metrics import samples_of
from cluster.control.lifecycle import COUNTS
from cluster.control.platform import Handle
from cluster.control.watching import Watch
from cluster.metrics import Samples

SAMPLES_TIMEOUT_S = 2.0


class Sampling:
    """Keeps the last samples of each process, for when it does not answer."""

    def __init__(self, fleet: Fleet, watch: Watch) -> None:
        self._fleet = fleet
        self._watch = watch
        self._ingresses: dict[str, Samples] = {}
        self._workers: dict[str, Samples] = {}

    async def collect(self, ingress: str, samples: Samples, uptime_s: float, free_bytes: int | None) -> Samples:
        """Takes what one ingress counted; returns what everybody counted."""
        self._ingresses[ingress] = samples
        await asyncio.gather(*(self._ask(name, handle) for name, handle in self._watch.handles.items()))
        self._workers = {name: last for name, last in self._workers.items() if name in self._fleet.workers}
        counted = [*self._ingresses.values(), *self._workers.values()]
        return [family for families in counted for family in families] + samples_of(self._fleet, uptime_s, free_bytes)

    async def _ask(self, name: str, handle: Handle) -> None:
        worker = self._fleet.workers.get(name)
        if worker is None or worker.state not in COUNTS:
            return
        try:
            self._workers[name] = await handle.samples(timeout_s=SAMPLES_TIMEOUT_S)
        except errors.ClusterError:
            return
