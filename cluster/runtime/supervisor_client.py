"""The supervisor, called from an ingress or a command."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import ray

from cluster import errors
from cluster.runtime.actor_calls import SUPERVISOR, answer_of
from cluster.settings import Settings


class SupervisorClient:
    """The supervisor, called from an ingress or a command. Finds it again when Ray restarted it elsewhere."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    @classmethod
    def find(cls, settings: Settings) -> SupervisorClient:
        try:
            return cls(ray.get_actor(SUPERVISOR, settings.namespace))
        except ValueError:
            raise errors.Unavailable("No supervisor runs; start a cluster with `cluster up`.") from None

    async def call(self, method: str, *args: Any, timeout_s: float = 30.0) -> Any:
        try:
            return await answer_of(getattr(self._actor, method).remote(*args), timeout_s)
        except (errors.Unavailable, errors.WorkerLost):
            raise errors.Unavailable(
                "The control plane does not answer at the moment; models go on serving. Try again.", retry_after_s=5.0
            ) from None

    async def call_patiently(self, method: str, *args: Any, patience_s: float = 15.0) -> Any:
        """The same through a restart of the supervisor; only for calls that may be made twice."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return await self.call(method, *args)
            except errors.Unavailable:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.3)
