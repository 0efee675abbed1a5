"""From an ingress to one worker."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

import ray

from cluster.calls import Call, View
from cluster.runtime import local_rpc
from cluster.runtime.actor_calls import answer_of
from cluster.runtime.worker_actor import SOCKET_S
from cluster.worker.worker import Outcome

log = logging.getLogger("cluster.worker_client")

#: How long an ingress waits to hear that what it cancelled is dropped.
CANCEL_S = 5.0


async def infer(worker: Any, calls: Sequence[Call], timeout_s: float) -> tuple[list[Outcome | None], int]:
    """One actor call for any number of requests."""
    outcome: tuple[list[Outcome | None], int] = await answer_of(worker.infer.remote(calls), timeout_s)
    return outcome


async def cancel(worker: Any, owners: Sequence[str], block_s: float = 0.0) -> bool:
    """Tells a worker that nobody waits for these requests any more."""
    call = worker.cancel.options(concurrency_group="control")
    return bool(await answer_of(call.remote(owners, block_s), CANCEL_S))


class WorkerClient:
    """From an ingress to one worker: by the worker's socket when both are on one machine, by Ray's calls otherwise."""

    def __init__(self, worker: Any, node_id: str = "", path: str = "") -> None:
        self.worker = worker
        self._path = path if node_id and node_id == ray.get_runtime_context().get_node_id() else ""
        self._pipe: local_rpc.Pipe | None = None
        self._connecting: asyncio.Task[local_rpc.Pipe] | None = None
        self._not_before = 0.0

    async def infer(self, calls: Sequence[Call], timeout_s: float) -> tuple[list[Outcome | None], int]:
        """One call for any number of requests; what the worker still computes when it refuses others is None."""
        near = await self._reached()
        return await (near.infer(calls, timeout_s) if near else infer(self.worker, calls, timeout_s))

    async def collect(self, ids: Sequence[str], timeout_s: float) -> tuple[list[Outcome | None], int]:
        """The answers that `infer` left open."""
        near = await self._reached()
        if near:
            return await near.collect(ids, timeout_s)
        outcome: tuple[list[Outcome | None], int] = await answer_of(self.worker.collect.remote(ids), timeout_s)
        return outcome

    async def reserve(self, owner: str, wait_s: float) -> None:
        """Returns when the worker does nothing any more and takes no other call."""
        near = await self._reached()
        if near:
            return await near.reserve(owner, wait_s, wait_s + CANCEL_S)
        await answer_of(self.worker.reserve.remote(owner, wait_s), wait_s + CANCEL_S)

    async def ping(self, timeout_s: float) -> None:
        """Raises Unavailable when the worker's loop does not turn; a model that computes does not stop it."""
        near = await self._reached()
        # How far nobody's request is: every worker answers that at once.
        await (
            near.watch("", -1, 0.0, timeout_s) if near else answer_of(self.worker.watch.remote("", -1, 0.0), timeout_s)
        )

    async def cancel(self, owners: Sequence[str], block_s: float = 0.0) -> bool:
        near = await self._reached()
        return await (near.cancel(owners, block_s, CANCEL_S) if near else cancel(self.worker, owners, block_s))

    async def watch(self, owner: str, seen: int, wait_s: float) -> View | None:
        """How far a request is, as soon as it is not what was seen."""
        near = await self._reached()
        if near:
            return await near.watch(owner, seen, wait_s, wait_s + CANCEL_S)
        view: View | None = await answer_of(self.worker.watch.remote(owner, seen, wait_s), wait_s + CANCEL_S)
        return view

    async def _reached(self) -> local_rpc.Pipe | None:
        """The socket, connected; None when there is none or it does not connect: Ray then tells what is the matter."""
        if self._pipe is not None and self._pipe.is_open:
            return self._pipe
        if not self._path or time.monotonic() < self._not_before:
            return None
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(local_rpc.connect(self._path))
        connecting = self._connecting
        try:
            # The one who began it may be cancelled; the others still want it.
            found = await asyncio.shield(connecting)
        except OSError as error:
            log.info("%s cannot be reached, Ray is used: %s", self._path, error)
            self._not_before = time.monotonic() + SOCKET_S
            return None
        finally:
            if self._connecting is connecting and connecting.done():
                self._connecting = None
        if not self._path:
            found.retire()
            return None
        self._pipe = found
        return found

    def retire(self) -> None:
        """The worker is not in the table any more; what is open is still answered."""
        self._path = ""
        if self._pipe is not None:
            self._pipe.retire()
            self._pipe = None
