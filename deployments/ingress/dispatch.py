"""From a request to a worker and back: route, gather, send, retry once elsewhere, cancel.

Asks nobody on the way: the table is pushed, and with the supervisor away the last one goes on being used.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cluster import actors, errors
from cluster.keys import Key
from cluster.metrics import IngressMetrics
from cluster.routing import RouteTable
from cluster.settings import Settings
from cluster.spec import Answer, Call, ModelRoutes, View
from cluster.supervisor import Snapshot

log = logging.getLogger("cluster.ingress")

#: A routing table is waited for this long at a time.
WATCH_S = 30.0
#: Requests in one call to a worker; more would make the first wait for the pickling of the last.
GATHER_MOST = 256
#: Characters from which on a request takes long beside a short question.
LONG = 2000
#: A worker that has refused a request for want of room is not asked again for this long: the answer would be the same,
#: and later.
FULL_S = 0.2
#: How often a request is sent: a worker that drains or is full has not touched it, so a third try is like a first.
ATTEMPTS = 3
MOST_LOSSES = 2
#: What a worker may say that another worker may not: nothing was computed, so the request may go elsewhere.
ELSEWHERE = (
    errors.WorkerLost,
    errors.WorkerDraining,
    errors.Unavailable,
    errors.ModelLoading,
    errors.Overloaded,
)


def size_of(items: Sequence[Any]) -> int:
    """How large a request is, before anybody has counted its tokens."""
    return sum(len(item) for item in items if isinstance(item, (str, list)))


class Gate:
    """What goes to one worker: requests that arrive close together share one call.

    With no call on its way a request goes at once. Otherwise it waits for that call to return or for `gather_s`,
    whichever is first: a busy worker gets few and large calls, and a slow one delays nobody by more than `gather_s`.
    """

    def __init__(self, line: actors.Line, gather_s: float, on_send: Callable[[int], None]) -> None:
        self.line = line
        self._gather_s = gather_s
        self._on_send = on_send
        self._waiting: list[tuple[Call, asyncio.Future[Answer]]] = []
        self._on_their_way = 0
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        #: What the worker last said it had in hand.
        self.queued = 0
        #: The size of the smallest request that it refused as one too many, and until when that holds.
        self._full: tuple[int, float, errors.Overloaded] | None = None

    def refuse(self, size: int) -> None:
        """Raises what the worker would say: it has just refused one like this. What is smaller may still go first."""
        if self._full is not None:
            least, until, refusal = self._full
            if asyncio.get_running_loop().time() >= until:
                self._full = None
            elif size >= least:
                raise errors.Overloaded(*refusal.args)

    def _remember(self, call: Call, refusal: errors.Overloaded) -> None:
        least = size_of(call.items) if self._full is None else min(size_of(call.items), self._full[0])
        self._full = least, asyncio.get_running_loop().time() + FULL_S, refusal

    async def send(self, call: Call, alone: bool = False) -> Answer:
        """`alone`: it takes long, and what was gathered with it would have to wait for it."""
        alone = alone or size_of(call.items) > LONG
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        if alone:
            self._on_send(1)
            self._spawn(self._carry([(call, answer)]))
        else:
            self._waiting.append((call, answer))
        if self._timer is None and not alone:
            # Even an idle gate waits for the end of this turn of the loop: what was read together goes together.
            self._timer = loop.call_later(self._gather_s, self._go) if self._on_their_way else loop.call_soon(self._go)
        try:
            return await answer
        except asyncio.CancelledError:
            self._forget(call)
            raise

    def _forget(self, call: Call) -> None:
        """Nobody waits for it any more: it is not sent, or the worker is told."""
        for entry in self._waiting:
            if entry[0] is call:
                self._waiting.remove(entry)
                return
        self._spawn(self._cancel(call.id))

    async def _cancel(self, owner: str) -> None:
        try:
            await self.line.cancel([owner])
        except errors.ClusterError as error:
            log.info("request %s could not be cancelled: %s", owner, error)

    def _go(self) -> None:
        self._timer = None
        batch, self._waiting = self._waiting[:GATHER_MOST], self._waiting[GATHER_MOST:]
        if batch:
            self._on_send(len(batch))
            self._spawn(self._carry_gathered(batch))
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_soon(self._go)

    async def _carry_gathered(self, batch: Sequence[tuple[Call, asyncio.Future[Answer]]]) -> None:
        """While it is on its way, others gather."""
        self._on_their_way += 1
        try:
            await self._carry(batch)
        finally:
            self._on_their_way -= 1
            if self._waiting and not self._on_their_way:
                if self._timer is not None:
                    self._timer.cancel()
                self._go()

    async def _carry(self, batch: Sequence[tuple[Call, asyncio.Future[Answer]]]) -> None:
        longest = max(call.seconds_left for call, _ in batch)
        try:
            outcomes, self.queued = await self.line.infer([call for call, _ in batch], longest + 5)
        # A call that cannot even be pickled must not take those with it that were gathered beside it.
        except Exception as error:
            if not isinstance(error, errors.ClusterError) and len(batch) > 1:
                for one in batch:
                    self._spawn(self._carry([one]))
                return
            known = (
                error if isinstance(error, errors.ClusterError) else errors.BadRequest(f"It cannot be sent: {error}")
            )
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(known)
            return
        for (call, answer), outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, errors.Overloaded):
                self._remember(call, outcome)
            if answer.done():
                continue
            if isinstance(outcome, Answer):
                answer.set_result(outcome)
            else:
                answer.set_exception(outcome)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Dispatcher:
    def __init__(self, control: actors.Control, settings: Settings, metrics: IngressMetrics) -> None:
        self._control = control
        self._settings = settings
        self._metrics = metrics
        self._gates: dict[str, Gate] = {}
        self._changed = asyncio.Event()
        self._calls = 0
        self.table = RouteTable()
        self.keys: tuple[Key, ...] = ()
        self.seen_at = 0.0
        self._watcher = asyncio.get_running_loop().create_task(self._watch(), name="watch")

    @property
    def is_ready(self) -> bool:
        """True once there is a table: before, every model would look unknown."""
        return self.table.version >= 0

    def handle_of(self, worker: str) -> Any:
        """The actor behind the name of a worker."""
        return self._gates[worker].line.worker

    async def _watch(self) -> None:
        pause = 0.1
        while True:
            try:
                # A little random, so that many ingresses do not come back all at once.
                wait = WATCH_S * random.uniform(0.5, 1.0)
                snapshot = await self._control.call("watch", self.table.version, wait, timeout_s=wait + 10)
                self._take(snapshot)
                pause = 0.1
            except errors.ClusterError as error:
                log.info("no news from the supervisor, serving from the last table: %s", error)
                await asyncio.sleep(pause)
                pause = min(2.0, pause * 2)
            # A watcher that ends would freeze the table for ever.
            except Exception:
                log.exception("the routing table could not be read")
                await asyncio.sleep(pause)

    def _take(self, snapshot: Snapshot) -> None:
        self.seen_at = time.monotonic()
        if not self.table.update(snapshot.version, snapshot.models):
            return
        self.keys = snapshot.keys
        gather_s = self._settings.gather_ms / 1000
        before = self._gates
        self._gates = {
            name: before.get(name)
            or Gate(actors.Line(handle, *snapshot.sockets.get(name, ())), gather_s, self._metrics.gathered)
            for name, handle in snapshot.handles.items()
        }
        for name in before.keys() - self._gates.keys():
            before[name].line.retire()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def ask(
        self,
        model: ModelRoutes,
        ability: str,
        items: Sequence[Any],
        params: Mapping[str, Any],
        owner: str,
        timeout_s: float,
        alone: bool = False,
    ) -> tuple[Answer, str]:
        """The answer and the worker that gave it. Sent again, elsewhere, only when nothing was computed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        tried: set[str] = set()
        size = size_of(items)
        refusal: errors.ClusterError | None = None
        losses = 0
        for _ in range(ATTEMPTS):
            model = await self._usable(model, tried, deadline, refusal)
            avoiding = tried if self.table.is_usable(model, tried) else ()
            with self.table.choose(model, avoiding) as route:
                # Request ids are the caller's and may be used twice; a call's own id is not.
                self._calls += 1
                call_id = f"{owner}#{self._metrics.ingress}{self._calls}"
                call = Call(call_id, list(items), dict(params), deadline - loop.time(), ability)
                gate = self._gates[route.worker]
                try:
                    gate.refuse(size)
                    answer = await gate.send(call, alone)
                    self.table.queued[route.worker] = gate.queued
                    return answer, route.worker
                except ELSEWHERE as error:
                    refusal = error
            tried.add(route.worker)
            if isinstance(refusal, (errors.WorkerLost, errors.WorkerDraining)):
                self.table.avoided.add(route.worker)
            losses += isinstance(refusal, errors.WorkerLost)
            if losses == MOST_LOSSES:
                # It may be this very request that ends workers; it does not get the next one.
                break
            self._metrics.retry(model.uid)
            log.info("request %s goes elsewhere: %s", owner, refusal)
        assert refusal is not None
        raise refusal

    async def abort(self, model: ModelRoutes, owner: str, block_s: float = 0.0) -> bool:
        """Drops a request wherever it is; any ingress may be asked, not only the one that holds it."""
        asked = (line.cancel([owner], block_s) for line in self._lines_of(model))
        found = await asyncio.gather(*asked, return_exceptions=True)
        return any(answer is True for answer in found)

    async def watch(self, model: ModelRoutes, owner: str, seen: int = -1, wait_s: float = 0.0) -> View | None:
        """How far a request is, as soon as it is not what was seen; None when no worker of the model knows it."""
        watched = [asyncio.ensure_future(line.watch(owner, seen, wait_s)) for line in self._lines_of(model)]
        try:
            # Workers that do not know it say so at once.
            for answer in asyncio.as_completed(watched):
                try:
                    view = await answer
                except errors.ClusterError:
                    continue
                if view is not None:
                    return view
            return None
        finally:
            for unanswered in watched:
                unanswered.cancel()

    def _lines_of(self, model: ModelRoutes) -> list[actors.Line]:
        return [self._gates[route.worker].line for route in model.workers if route.worker in self._gates]

    async def _usable(
        self, model: ModelRoutes, tried: set[str], deadline: float, refusal: errors.ClusterError | None
    ) -> ModelRoutes:
        """The model with a worker to send to; waits a while for one that has served before and lost its last worker."""
        loop = asyncio.get_running_loop()
        patience = min(deadline, loop.time() + self._settings.hold_s)
        while True:
            # The table may have changed since the caller looked: only what it lists now has a gate.
            model = self.table.find(model.uid)
            if self.table.is_usable(model, tried):
                return model
            is_full = isinstance(refusal, errors.Overloaded)
            if is_full or not model.recovering or loop.time() >= patience:
                if refusal is not None and (is_full or not model.recovering):
                    raise refusal
                if not self.table.is_usable(model):
                    raise self.table.why_not(model)
                return model
            try:
                await asyncio.wait_for(self._changed.wait(), patience - loop.time())
            except TimeoutError:
                continue
            # Unavailable was only unknown: after news, whoever is still listed may be asked again.
            if isinstance(refusal, errors.Unavailable):
                tried.clear()
