"""The pages of metrics that the supervisor knows: its own, of the fleet, and those that ingresses have shown it."""

from __future__ import annotations

import asyncio

from cluster.control.fleet import Fleet
from cluster.control.fleet_metrics import page_of
from cluster.control.publishing import Publisher
from cluster.control.views import usage_of


class Sampling:
    def __init__(self, fleet: Fleet, publisher: Publisher) -> None:
        self._fleet = fleet
        self._publisher = publisher
        #: The last page of each ingress.
        self._ingresses: dict[str, bytes] = {}

    async def collect(self, ingress: str, own: bytes, uptime_s: float, free_bytes: int | None) -> list[bytes]:
        """Keeps the page of one ingress; returns those of all others, and the fleet's."""
        self._ingresses[ingress] = own
        others = [text for name, text in self._ingresses.items() if name != ingress]
        statuses, nodes = self._publisher.statuses.value, usage_of(self._fleet)
        # On a thread: it is a page of all models, and nobody would hear of a worker's death meanwhile.
        fleet = await asyncio.to_thread(page_of, statuses.values(), nodes, uptime_s, free_bytes)
        return [*others, fleet]
