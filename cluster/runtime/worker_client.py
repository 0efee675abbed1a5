"""From an ingress to one worker."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar, TypeVarTuple

import ray
from ray.exceptions import RayError

from cluster import errors
from cluster.calls import Answer, Call, OpenCall, View
from cluster.figures import Figures
from cluster.routes import WorkerAddress
from cluster.runtime import local_rpc
from cluster.runtime.actor_calls import answer_of, unwrap
from cluster.runtime.local_rpc import WorkerConnection
from cluster.runtime.worker_calls import WorkerCalls
from cluster.worker.outcomes import Outcome

log = logging.getLogger("cluster.worker_client")

Arguments = TypeVarTuple("Arguments")
T = TypeVar("T")

#: How long an ingress waits to hear that what it cancelled is dropped.
CANCEL_S = 5.0
#: How long an ingress uses Ray before it tries a socket again that it could not reach.
RECONNECT_S = 5.0


#: Of a worker that is only called through Ray.
NOWHERE = WorkerAddress()


class WorkerClient:
    """From an ingress to one worker: by the worker's socket when both are on one machine, by Ray's calls otherwise."""

    def __init__(self, actor: Any, address: WorkerAddress = NOWHERE) -> None:
        self._actor = actor
        is_near = bool(address.socket) and address.node == ray.get_runtime_context().get_node_id()
        self._socket = address.socket if is_near else ""
        self._connection: WorkerConnection | None = None
        self._connecting: asyncio.Task[WorkerConnection] | None = None
        self._not_before = 0.0

    async def infer(self, calls: Sequence[Call], timeout_s: float) -> tuple[list[Outcome | None], int]:
        """One call for any number of requests. See `WorkerCalls.infer` for outcomes that are None."""
        return await self._call(timeout_s, WorkerCalls.infer, calls)

    async def talk(self, call: Call, timeout_s: float) -> AsyncGenerator[list[object]]:
        """The pieces of an answer, as many at a time as there are; the last of all is the `Answer`. Whoever closes the
        generator before that ends the work."""
        connection = await self._connected()
        if connection is not None:
            near = connection.pieces(WorkerCalls.talk.__name__, (call,), timeout_s)
            async with aclosing(near):
                async for pieces in near:
                    yield pieces
            return
        far = getattr(self._actor, WorkerCalls.talk_in_frames.__name__).options(num_returns="streaming").remote(call)
        pieces = []
        try:
            async for ref in far:
                pieces = await answer_of(ref, timeout_s)
                yield pieces
        except RayError as error:
            raise unwrap(error) from None
        finally:
            if not pieces or not isinstance(pieces[-1], Answer):
                await self.cancel([call.id])

    async def collect(self, ids: Sequence[str], timeout_s: float) -> tuple[list[Outcome | None], int]:
        """The outcomes that `infer` left open."""
        return await self._call(timeout_s, WorkerCalls.collect, ids)

    async def reserve(self, owner: str, wait_s: float) -> None:
        """Returns when the worker is idle and takes no other call."""
        await self._call(wait_s + CANCEL_S, WorkerCalls.reserve, owner, wait_s)

    async def overdue(self, timeout_s: float) -> Sequence[str]:
        """The ids of calls that are computed for much longer than is usual. Raises Unavailable when the worker's event
        loop is stuck; a model that computes does not stop it."""
        try:
            return await self._call(timeout_s, WorkerCalls.overdue)
        except (errors.BadRequest, AttributeError):
            return ()  # a worker of an earlier version, which hears

    async def failing(self, timeout_s: float) -> Sequence[str] | None:
        """The ids of the calls that the worker had when it began to fail, if it fails its own example too."""
        try:
            return await self._call(timeout_s, WorkerCalls.failing)
        except (errors.BadRequest, AttributeError):
            return None  # a worker of an earlier version

    async def watch(self, owner: str, seen: int, wait_s: float) -> View | None:
        """How far a request is, as soon as that is not version `seen`."""
        return await self._call(wait_s + CANCEL_S, WorkerCalls.watch, owner, seen, wait_s)

    async def under_way(self) -> Sequence[OpenCall]:
        """The calls that it has in hand and that take their time."""
        try:
            return await self._call(CANCEL_S, WorkerCalls.under_way)
        except (errors.BadRequest, AttributeError):
            return ()  # a worker of an earlier version

    async def cancel(self, owners: Sequence[str], block_s: float = 0.0) -> bool:
        """Tells the worker that nobody waits for these requests any more; True if it had one of them."""
        return await self._call(CANCEL_S, WorkerCalls.cancel, owners, block_s)

    async def metrics(self, timeout_s: float) -> bytes:
        """What the worker counts, as a page; raises where it does not say."""
        try:
            return await self._call(timeout_s, WorkerCalls.metrics)
        except (errors.BadRequest, AttributeError) as error:
            raise errors.Unavailable("It is of an earlier version, which writes no page.") from error

    async def figures(self, timeout_s: float) -> Figures | None:
        """None where it does not say."""
        try:
            return await self._call(timeout_s, WorkerCalls.figures)
        except (errors.ClusterError, AttributeError):
            return None  # of an earlier version, or busy, or gone

    async def _call(
        self,
        timeout_s: float,
        method: Callable[[WorkerCalls, *Arguments], Awaitable[T]],
        *args: *Arguments,
    ) -> T:
        """By the socket if there is one; both ways know the method by its name."""
        name = method.__name__
        connection = await self._connected()
        if connection is not None:
            near: T = await connection.call(name, args, timeout_s)
            return near
        call = getattr(self._actor, name)
        # Calls of inference may fill their group of threads; these must not wait behind them.
        if name in (WorkerCalls.cancel.__name__, WorkerCalls.metrics.__name__, WorkerCalls.figures.__name__):
            call = call.options(concurrency_group="control")
        far: T = await answer_of(call.remote(*args), timeout_s)
        return far

    async def _connected(self) -> WorkerConnection | None:
        """The open socket; None when there is none or it cannot be reached: a call through Ray then says why."""
        if self._connection is not None and self._connection.is_open:
            return self._connection
        if not self._socket or time.monotonic() < self._not_before:
            return None
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(local_rpc.connect(self._socket))
        connecting = self._connecting
        try:
            # Others wait for the same connection, also when the caller who began it is cancelled.
            connection = await asyncio.shield(connecting)
        except OSError as error:
            log.info("%s cannot be reached, Ray is used: %s", self._socket, error)
            self._not_before = time.monotonic() + RECONNECT_S
            return None
        finally:
            if self._connecting is connecting and connecting.done():
                self._connecting = None
        if not self._socket:
            connection.retire()
            return None
        self._connection = connection
        return connection

    def retire(self) -> None:
        """The worker is not in the table any more; calls that are open are still answered."""
        self._socket = ""
        if self._connection is not None:
            self._connection.retire()
            self._connection = None
