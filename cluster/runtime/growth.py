"""Ray's autoscaler hears what the wanted models need."""

from __future__ import annotations

import asyncio
import threading
import time

from ray.autoscaler import sdk

from cluster import errors
from cluster.control.growing import CardsWanted
from cluster.node_labels import selector_of
from cluster.runtime.connection import connect
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.settings import Settings

#: How often it is told.
GROWTH_S = 2.0


class Growth:
    """Tells Ray's autoscaler how many GPUs all models need together; it adds nodes for them, and keeps those."""

    def __init__(self, settings: Settings, address: str) -> None:
        connect(settings, address)
        self._supervisor = SupervisorClient.find(settings)
        self._requested: list[CardsWanted] = []
        threading.Thread(target=self._go_on, name="growth", daemon=True).start()

    def _go_on(self) -> None:
        while True:
            self._tell()
            time.sleep(GROWTH_S)

    def _tell(self) -> None:
        try:
            # To ask is to say that there is an autoscaler: a launch may wait for it from now on.
            cards = asyncio.run(self._supervisor.cards_wanted())
        except errors.Unavailable:
            return
        if cards != self._requested:
            sdk.request_resources(
                bundles=[{"GPU": float(wanted.cards)} for wanted in cards],
                bundle_label_selectors=[selector_of(wanted.labels) for wanted in cards],
            )
            self._requested = cards
