"""From a request to a worker and back: route, gather, send, retry elsewhere, cancel.

Asks nobody on the way: the table is pushed, and with the supervisor away the last one goes on being used.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from cluster import errors
from cluster.calls import Answer, Call, View
from cluster.keys import Key, by_digest
from cluster.routes import NOTHING_TOLD, Amendment, ModelRoutes, Route, Snapshot, amended, difference
from cluster.runtime.last_table import LastTable
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.runtime.worker_client import WorkerClient
from cluster.settings import Settings
from cluster.suspicion import fingerprint_of
from cluster.value import JsonObject
from deployments.ingress.affinity import Beginning
from deployments.ingress.blame import Blame, FailedCall
from deployments.ingress.canaries import CanaryCounts
from deployments.ingress.keep_alive import KeepAlive
from deployments.ingress.metrics import IngressMetrics
from deployments.ingress.open_answer import OpenAnswer
from deployments.ingress.patience import Patience
from deployments.ingress.routing import RouteTable
from deployments.ingress.table_writer import TableWriter
from deployments.ingress.worker_queue import GivenUp, Sent, WorkerQueue, size_of

log = logging.getLogger("cluster.ingress")

#: A routing table is waited for this long at a time.
WATCH_S = 30.0
#: An ingress that starts waits for the supervisor's table for so long, and then takes the last one that another ingress
#: had.
OWN_TABLE_S = 2.0
#: How often a request is sent. A worker that drains or is full has not begun it, so sending it again is safe.
ATTEMPTS = 3
#: How many workers may die with a request before it fails. Other calls were on those workers too, so the deaths alone
#: do not prove that this request caused them.
MOST_LOSSES = 6
#: Pause before asking a worker again that was reserved for another call.
RESERVED_PAUSE_S = 0.05
#: Retry-After is the time that the waiting work takes, times a random factor up to this.
MOST_LATER = 2.0


def later(refusal: errors.Overloaded, times: float) -> errors.Overloaded:
    """The same refusal with a longer Retry-After, so that callers refused together do not all come back together."""
    after = refusal.retry_after_s
    return errors.Overloaded(refusal.message, refusal.param, after and after * times)


@dataclass
class Question:
    """What a caller asks, whichever worker answers."""

    model: ModelRoutes
    ability: str
    items: list[Any]
    params: JsonObject
    owner: str
    deadline: float
    is_long: bool
    #: Answered piece by piece.
    in_pieces: bool = False
    #: How the prompt begins, where workers keep the beginnings of prompts.
    beginning: Beginning | None = None
    #: A version on trial has failed it.
    was_failed: bool = False

    def sender(self, queue: WorkerQueue, is_suspect: bool) -> Callable[[Call, bool], Awaitable[Any]]:
        if self.in_pieces:
            return queue.begin_tried if is_suspect else queue.begin
        return queue.send_tried if is_suspect else queue.send

    @cached_property
    def size(self) -> int:
        return size_of(self.items)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint_of(self.ability, self.items, self.params)

    def call(self, id: str, now: float) -> Call:
        return Call(id, self.items, self.params, self.deadline - now, self.ability)


class Dispatcher:
    def __init__(
        self,
        supervisor: SupervisorClient,
        settings: Settings,
        metrics: IngressMetrics,
        last_table: LastTable | None = None,
    ) -> None:
        self._supervisor = supervisor
        self._settings = settings
        self._metrics = metrics
        self._queues: dict[str, WorkerQueue] = {}
        self._changed = asyncio.Event()
        self._calls = 0
        self.table = RouteTable(any_name=settings.any_name)
        self._blame = Blame(self.table, supervisor, self._announce)
        self._canaries = CanaryCounts(self.table, partial(supervisor.tallied, metrics.ingress))
        self.keep_alive = KeepAlive(self.table, supervisor)
        self._patience = Patience(self.table, supervisor, settings.hold_s, lambda: self._changed)
        #: By the digest of each.
        self.keys: Mapping[str, Key] = {}
        self.seen_at = 0.0
        self._last_table = last_table
        self._snapshot = NOTHING_TOLD
        #: The table is the one that was written down, in which workers may be missing that could not be reached.
        self._is_from_file = False
        self._writer = None if last_table is None else TableWriter(last_table)
        self._watcher = asyncio.get_running_loop().create_task(self._watch(), name="watch")

    @property
    def is_ready(self) -> bool:
        """True once there is a table: before, every model would look unknown."""
        return self.table.version >= 0

    async def first_table(self, within_s: float) -> None:
        """Returns when there is one, or when the time is up."""
        if await self._heard_within(min(OWN_TABLE_S, within_s)):
            return
        log.warning("the supervisor has not been heard of for %.0f s", OWN_TABLE_S)
        if self._last_table is not None:
            snapshot = await asyncio.to_thread(self._last_table.read)
            if snapshot is not None and not self.is_ready:
                log.warning("serving from the last table that was written down")
                self._take(snapshot)
                self._is_from_file = True
        await self._heard_within(within_s - OWN_TABLE_S)

    async def _heard_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                while not self.is_ready:
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def newer(self, version: int, within_s: float) -> None:
        """Returns when there is a table after that version, or when the time is up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self.table.version <= version:
                    await self._changed.wait()

    async def _watch(self) -> None:
        pause = 0.1
        while True:
            try:
                # A little random, so that many ingresses do not come back all at once.
                wait = WATCH_S * random.uniform(0.5, 1.0)
                version = -1 if self._is_from_file else self.table.version
                self._take(await self._supervisor.changes(version, wait))
                pause = 0.1
            except errors.ClusterError as error:
                log.info("no news from the supervisor, serving from the last table: %s", error)
                await asyncio.sleep(pause)
                pause = min(2.0, pause * 2)
            # A watcher that ends would freeze the table for ever.
            except Exception:
                log.exception("the routing table could not be read")
                await asyncio.sleep(pause)

    def _take(self, news: Snapshot | Amendment) -> None:
        """Does only what has changed, however much there is."""
        self.seen_at = time.monotonic()
        if news.version <= self.table.version and not self._is_from_file:
            return
        self._is_from_file = False
        change = difference(self._snapshot, news) if isinstance(news, Snapshot) else news
        assert change.since == self._snapshot.version, "it was asked what has changed since the version that is here"
        before = {route.worker for uid in (*change.models, *change.gone) for route in self._routes_of(uid)}
        self.table.amend(change.version, change.models, change.gone)
        self._snapshot = amended(self._snapshot, change)
        for route in (route for model in change.models.values() for route in model.workers):
            before.discard(route.worker)
            if route.worker in change.handles and route.worker not in self._queues:
                self._queues[route.worker] = self._queue_of(route, change.handles[route.worker])
        for worker in before & self._queues.keys():
            self._queues.pop(worker).close()
            self._blame.forget(worker)
        if change.keys is not None:
            self.keys = by_digest(change.keys)
        self._blame.remember(change.poison)
        if self._writer is not None:
            self._writer.add(change, self._snapshot)
        self._announce()

    def _routes_of(self, uid: str) -> Sequence[Route]:
        return self.table.models[uid].workers if uid in self.table.models else ()

    def _queue_of(self, route: Route, handle: Any) -> WorkerQueue:
        name = route.worker
        return WorkerQueue(
            WorkerClient(handle, route.address),
            self._settings.gather_ms / 1000,
            self._metrics.gathered,
            partial(self._blame.see_death, name),
            partial(self._blame.see_silence, name),
            partial(self._blame.see_overdue, name),
            partial(self._blame.see_in_time, name),
        )

    async def ask(
        self,
        model: ModelRoutes,
        ability: str,
        items: Sequence[Any],
        params: JsonObject,
        owner: str,
        timeout_s: float,
        alone: bool = False,
        beginning: Beginning | None = None,
    ) -> tuple[Answer, str]:
        """The answer and the worker that gave it. Sent again, elsewhere, when nothing was answered: nothing that is
        computed changes anything, so a second time does no harm."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        question = Question(model, ability, list(items), dict(params), owner, deadline, alone, beginning=beginning)
        return await self._asked(question)

    async def talk(
        self,
        model: ModelRoutes,
        ability: str,
        item: object,
        params: JsonObject,
        owner: str,
        timeout_s: float,
        beginning: Beginning | None = None,
    ) -> AsyncGenerator[list[object]]:
        """The pieces of an answer, as many at a time as there are; the very last is the `Answer`. It is asked elsewhere
        only before the first piece: what has been told cannot be taken back."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        question = Question(model, ability, [item], dict(params), owner, deadline, True, True, beginning)
        begun: OpenAnswer
        begun, worker = await self._asked(question)
        with self.table.counted(worker), self._canaries.told_of(question.model.uid, worker):
            async with aclosing(begun.pieces()) as coming:
                async for pieces in coming:
                    yield pieces
        self._clear(question)

    async def _asked(self, question: Question) -> tuple[Any, str]:
        try:
            return await self._ask(question, set(), 0)
        except errors.Overloaded as refusal:
            raise later(refusal, random.uniform(1, MOST_LATER)) from None

    async def _ask(self, question: Question, tried: set[str], losses: int) -> tuple[Any, str]:
        loop = asyncio.get_running_loop()
        refusal: errors.ClusterError | None = None
        #: Workers that are reserved for somebody else's call.
        reserved: set[str] = set()
        attempts = 0
        while attempts < ATTEMPTS and losses < MOST_LOSSES:
            model = await self._patience.usable(question.model, tried, question.deadline, refusal)
            overdue = self.table.overdue
            sets = (tried | reserved | overdue, tried | overdue, tried | reserved, tried)
            avoiding = next((those for those in sets if self.table.is_usable(model, those)), ())
            suspicion = self._blame.suspicion_of(model.uid)
            if suspicion is not None:
                suspicion.refuse(question.fingerprint, model.uid, loop.time())
            began = loop.time()
            with self.table.choose(model, avoiding, question.beginning, question.owner) as route:
                # Request ids are the caller's and may be used twice; a call's own id is not.
                self._calls += 1
                call = question.call(f"{question.owner}#{self._metrics.ingress}{self._calls}", loop.time())
                queue = self._queues[route.worker]
                is_suspect = suspicion is not None and suspicion.goes_alone(question.fingerprint, loop.time())
                try:
                    queue.refuse(question.size)
                    answer = await question.sender(queue, is_suspect)(call, question.is_long)
                    self.table.queued[route.worker] = queue.queued
                    if model.canary:
                        is_computed = question.in_pieces or answer.run_ms > 0
                        seconds = loop.time() - began if is_computed else None
                        self._canaries.answered(model, route.worker, seconds, question.was_failed)
                    # One in pieces may still end its worker.
                    if not question.in_pieces:
                        self._clear(question)
                    return answer, route.worker
                except GivenUp as silence:
                    question.was_failed = question.was_failed or route.worker in model.canary
                    return await self._first(silence.sent, queue, route.worker, question, tried, losses)
                except errors.ClusterError as error:
                    failed = FailedCall(call.id, question.fingerprint, question.is_long, is_suspect)
                    if self._canaries.goes_back(model, route.worker, error):
                        question.was_failed = True
                    elif not await self._blame.lets_go_on(error, route.worker, queue.client, failed, queue.sent):
                        self._canaries.failed(model, route.worker, error)
                        self._clear(question)
                        raise
                    refusal = error
            if isinstance(refusal, errors.WorkerReserved):
                reserved.add(route.worker)
                if not self.table.is_usable(model, tried | reserved | self.table.overdue):
                    await asyncio.sleep(RESERVED_PAUSE_S)
                    reserved.clear()
                if loop.time() >= question.deadline:
                    raise refusal
                refusal = None
                continue
            tried.add(route.worker)
            if isinstance(refusal, (errors.WorkerLost, errors.WorkerDraining)):
                self.table.avoided.add(route.worker)
            if isinstance(refusal, errors.WorkerLost):
                losses += 1
            else:
                attempts += 1
            self._metrics.retry(model.uid)
            log.info("request %s goes elsewhere: %s", question.owner, refusal)
        assert refusal is not None
        raise refusal

    async def _first(
        self, sent: Sent, queue: WorkerQueue, worker: str, question: Question, tried: set[str], losses: int
    ) -> tuple[Any, str]:
        """The first answer to come: from the worker that was given up, or from another one."""
        elsewhere = asyncio.ensure_future(self._ask(question, tried | {worker}, losses))
        try:
            await asyncio.wait((elsewhere, sent.answer), return_when=asyncio.FIRST_COMPLETED)
            if sent.answer.done() and not sent.answer.exception():
                self._clear(question)
                return sent.answer.result(), worker
            answer = await elsewhere
            sent.is_cleared = True
            return answer
        finally:
            elsewhere.cancel()
            if not sent.answer.done():
                queue.forget(sent)

    def _clear(self, question: Question) -> None:
        self._blame.clear(question.model.uid, lambda: question.fingerprint)

    def _announce(self) -> None:
        """Wakes the requests that wait for a worker."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def abort(self, model: ModelRoutes, owner: str, block_s: float = 0.0) -> bool:
        """Drops a request wherever it is; any ingress may be asked, not only the one that holds it."""
        cancels = (client.cancel([owner], block_s) for client in self.clients_of(model))
        answers = await asyncio.gather(*cancels, return_exceptions=True)
        return any(answer is True for answer in answers)

    async def watch(self, model: ModelRoutes, owner: str, seen: int = -1, wait_s: float = 0.0) -> View | None:
        """How far a request is, as soon as that is newer than `seen`; None when no worker of the model knows it."""
        watched = [asyncio.ensure_future(client.watch(owner, seen, wait_s)) for client in self.clients_of(model)]
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

    def clients(self) -> dict[str, WorkerClient]:
        """Of all workers in the table."""
        return {name: queue.client for name, queue in self._queues.items()}

    def clients_of(self, model: ModelRoutes) -> list[WorkerClient]:
        return [self._queues[route.worker].client for route in model.workers if route.worker in self._queues]

    async def woken(self, model: ModelRoutes, within_s: float) -> None:
        """Returns when it has a worker; raises when it has none by then, and is still being woken."""
        await self._patience.usable(model, set(), asyncio.get_running_loop().time() + within_s, None)
