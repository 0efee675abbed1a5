"""Ray's autoscaler hears what the wishes need."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable

from ray.autoscaler import sdk

from cluster import errors
from cluster.runtime.connection import connect
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.settings import Settings
from cluster.status import ModelStatus

#: How often it is told.
GROWTH_S = 2.0


class Growth:
    """Tells Ray's autoscaler how many GPUs the wishes need together; it adds nodes for them, and keeps those."""

    def __init__(self, settings: Settings, address: str) -> None:
        connect(settings, address)
        self._supervisor = SupervisorClient.find(settings)
        self._requested: list[dict[str, float]] = []
        threading.Thread(target=self._go_on, name="growth", daemon=True).start()

    def _go_on(self) -> None:
        while True:
            self._tell()
            time.sleep(GROWTH_S)

    def _tell(self) -> None:
        try:
            bundles = room_for(asyncio.run(self._supervisor.all_statuses()))
        except errors.Unavailable:
            return
        if bundles != self._requested:
            sdk.request_resources(bundles=bundles)
            self._requested = bundles


def room_for(statuses: Iterable[ModelStatus]) -> list[dict[str, float]]:
    """The GPUs that each worker wished for needs, those that run included: it is all that the autoscaler keeps."""
    bundles = []
    for status in statuses:
        lives_on_cpu = bool(status.workers) and not any(worker.cards for worker in status.workers)
        for index in range(status.wanted.replica):
            replica = status.wanted.spec.place_of(index)
            auto = 0.0 if lives_on_cpu else 1.0
            wanted = auto if replica.n_gpu == "auto" else replica.n_gpu
            gpus = len(replica.gpu_idx) if replica.gpu_idx else wanted
            if gpus:
                bundles.append({"GPU": float(gpus)})
    return bundles
