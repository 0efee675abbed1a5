"""Waits until a change is visible: in a model's status, or in what this ingress itself knows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Annotated

from fastapi import Query

from cluster import errors
from cluster.launching import has_ended
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.status import ModelStatus
from deployments.ingress.routing import RouteTable

#: NaN passes every comparison and ends the event loop whose clock it reaches.
Seconds = Annotated[float, Query(allow_inf_nan=False)]

#: How long a launch may be waited for when the caller sets no limit.
LAUNCH_WAIT_S = 3600.0
#: One long poll on the supervisor; waiting longer is many of them.
POLL_S = 25.0
#: How long following a launch puts up with a supervisor that does not answer.
PATIENCE_S = 60.0
#: How long an answer waits for this ingress's own table to agree with it.
ROUTED_S = 2.0


async def until_ready(supervisor: SupervisorClient, status: ModelStatus, timeout_s: float) -> ModelStatus:
    """Waits with the caller. A caller who leaves does not end the launch, and a restart of the supervisor only delays
    the answer."""
    answered_at = time.monotonic()
    deadline = answered_at + timeout_s
    uid, generation = status.uid, status.generation
    while True:
        if has_ended(status, generation):
            return status
        seconds_left = deadline - time.monotonic()
        if seconds_left <= 0:
            raise errors.DeadlineExceeded(
                f"{uid} is not READY after {timeout_s:.0f} s ({status.stage}); the launch goes on."
            )
        wait_s = min(seconds_left, POLL_S)
        try:
            status = await supervisor.status(uid, status.version, wait_s)
            answered_at = time.monotonic()
        except errors.Unavailable:
            if time.monotonic() > answered_at + PATIENCE_S:
                raise
            await asyncio.sleep(0.3)
        except errors.UnknownUid:
            raise errors.LaunchCancelled("Launch cancelled") from None


async def until_seen(is_so: Callable[[], bool]) -> None:
    """An ingress learns of a change some milliseconds after the supervisor has made it, and the caller's next request
    may come sooner."""
    deadline = time.monotonic() + ROUTED_S
    while not is_so() and time.monotonic() < deadline:
        await asyncio.sleep(0.002)


async def until_routed(table: RouteTable, uid: str) -> None:
    """Until requests for the model can be sent to a worker, or wake it."""
    await until_seen(lambda: (model := table.models.get(uid)) is not None and (bool(model.workers) or model.is_asleep))


async def until_gone(table: RouteTable, uid: str) -> None:
    """Until no request can be sent to the model any more."""
    await until_seen(lambda: uid not in table.models)
