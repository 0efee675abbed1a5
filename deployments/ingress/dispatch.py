"""From a request to a worker and back: route, gather, send, retry elsewhere, cancel.

Asks nobody on the way: the table is pushed, and with the supervisor away the last one goes on being used.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from cluster import actors, errors
from cluster.keys import Key
from cluster.metrics import IngressMetrics
from cluster.routing import RouteTable
from cluster.settings import Settings
from cluster.spec import Answer, Call, ModelRoutes, View, WorkerName
from cluster.supervisor import Snapshot
from cluster.suspicion import Suspicion, fingerprint_of

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
#: Workers that a request may lose; it is no proof against it, as long as others were there as well.
MOST_LOSSES = 6
#: A worker that has work and answers nothing for so long is asked whether it hears, and how long that may take.
SILENT_S = 2.0
PING_S = 1.5
#: Between two questions to a worker that is silent.
PING_PAUSE_S = 0.5
#: How soon a worker is asked again that tried another call alone.
RESERVED_PAUSE_S = 0.05
#: Who is refused is told to come back after up to so many times the time that the work before him takes.
MOST_LATER = 2.0
#: What a worker may say that another worker may not: nothing was computed, so the request may go elsewhere.
ELSEWHERE = (
    errors.WorkerLost,
    errors.WorkerDraining,
    errors.WorkerReserved,
    errors.Unavailable,
    errors.ModelLoading,
    errors.Overloaded,
)


def size_of(items: Sequence[Any]) -> int:
    """How large a request is, before anybody has counted its tokens."""
    return sum(len(item) for item in items if isinstance(item, (str, list)))


def later(refusal: errors.Overloaded, times: float) -> errors.Overloaded:
    """The same with more time to come back: those who are refused together must not come back together."""
    after = refusal.retry_after_s
    return errors.Overloaded(refusal.message, after and after * times, refusal.param)


@dataclass
class Question:
    """What a caller asks, whichever worker answers."""

    model: ModelRoutes
    ability: str
    items: list[Any]
    params: dict[str, Any]
    owner: str
    deadline: float
    is_long: bool

    @cached_property
    def size(self) -> int:
        return size_of(self.items)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint_of(self.ability, self.items, self.params)

    def call(self, id: str, now: float) -> Call:
        return Call(id, self.items, self.params, self.deadline - now, self.ability)


class Sent:
    """A call on its way to one worker, and who waits for its answer."""

    __slots__ = ("answer", "call", "is_alone", "is_cleared", "is_given_up", "is_long")

    def __init__(self, call: Call, answer: asyncio.Future[Answer], is_long: bool) -> None:
        self.call = call
        self.answer = answer
        self.is_long = is_long
        #: The worker does nothing else.
        self.is_alone = False
        #: The worker does not compute it: it is not there yet, or has been answered elsewhere.
        self.is_cleared = False
        self.is_given_up = False

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.call.ability, self.call.items, self.call.params)


class GivenUp(Exception):
    """The worker is silent; `sent` may still be answered."""

    def __init__(self, sent: Sent) -> None:
        super().__init__()
        self.sent = sent


class Gate:
    """What goes to one worker: requests that arrive close together share one call.

    With no call on its way a request goes at once. Otherwise it waits for that call to return or for `gather_s`,
    whichever is first: a busy worker gets few and large calls, and a slow one delays nobody by more than `gather_s`.
    """

    def __init__(
        self,
        line: actors.Line,
        gather_s: float,
        on_send: Callable[[int], None],
        on_death: Callable[[Sequence[Sent]], None] = lambda sent: None,
        on_silence: Callable[[bool], None] = lambda is_silent: None,
    ) -> None:
        """`on_death` is told once, of all that the worker had when it died; `on_silence`, when a worker that has work
        stops answering anything, and when it answers again."""
        self.line = line
        self._gather_s = gather_s
        self._on_send = on_send
        self._on_death = on_death
        self._on_silence = on_silence
        self._waiting: list[Sent] = []
        #: What the worker has.
        self._sent: dict[Sent, None] = {}
        self._on_their_way = 0
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        #: What the worker last said it had in hand.
        self.queued = 0
        #: The size of the smallest request that it refused as one too many, and until when that holds.
        self._full: tuple[int, float, errors.Overloaded] | None = None
        self._is_dead = False
        self._is_silent = False
        self._heard_at = 0.0
        self._listener: asyncio.Task[None] | None = None

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
        loop = asyncio.get_running_loop()
        sent = Sent(call, loop.create_future(), alone)
        if alone or size_of(call.items) > LONG:
            self._on_send(1)
            self._spawn(self._carry([sent]))
        else:
            self._waiting.append(sent)
            if self._timer is None:
                # Even an idle gate waits for the end of this turn of the loop: what was read together goes together.
                busy = self._on_their_way
                self._timer = loop.call_later(self._gather_s, self._go) if busy else loop.call_soon(self._go)
        return await self._answered(sent)

    async def send_tried(self, call: Call, alone: bool = False) -> Answer:
        """For a suspect: the worker is emptied first, so that nobody else is harmed or suspected if it dies."""
        sent = Sent(call, asyncio.get_running_loop().create_future(), alone)
        self._on_send(1)
        self._spawn(self._carry_tried(sent))
        return await self._answered(sent)

    async def _answered(self, sent: Sent) -> Answer:
        try:
            return await sent.answer
        except asyncio.CancelledError:
            self.forget(sent)
            raise

    def forget(self, sent: Sent) -> None:
        """Nobody waits for it any more: it is not sent, or the worker is told."""
        if sent in self._waiting:
            self._waiting.remove(sent)
        elif not self._is_silent:
            self._spawn(self._cancel(sent.call.id))

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

    async def _carry_gathered(self, batch: Sequence[Sent]) -> None:
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

    async def _carry_tried(self, sent: Sent) -> None:
        sent.is_cleared = True
        self._expect([sent])
        try:
            await self.line.reserve(sent.call.id, max(sent.call.seconds_left, 0.0))
        except Exception as error:
            self._failed([sent], error)
            return
        finally:
            self._sent.pop(sent, None)
        if sent.answer.done():
            await self._cancel(sent.call.id)
            return
        sent.is_cleared, sent.is_alone = False, True
        await self._carry([sent])

    async def _carry(self, batch: Sequence[Sent]) -> None:
        longest = max(sent.call.seconds_left for sent in batch)
        self._expect(batch)
        try:
            outcomes, self.queued = await self.line.infer([sent.call for sent in batch], longest + 5)
            while rest := self._deliver(batch, outcomes):
                batch = rest
                outcomes, self.queued = await self.line.collect([sent.call.id for sent in batch], longest + 5)
        except Exception as error:
            self._failed(batch, error)
        finally:
            for sent in batch:
                self._sent.pop(sent, None)

    def _deliver(self, batch: Sequence[Sent], outcomes: Sequence[Answer | errors.ClusterError | None]) -> list[Sent]:
        """Gives everybody his outcome; returns those who have none yet."""
        self._heard_at = asyncio.get_running_loop().time()
        rest = []
        for sent, outcome in zip(batch, outcomes, strict=True):
            if outcome is None:
                rest.append(sent)
                continue
            self._sent.pop(sent, None)
            if isinstance(outcome, errors.Overloaded):
                self._remember(sent.call, outcome)
            if sent.answer.done():
                continue
            if isinstance(outcome, Answer):
                sent.answer.set_result(outcome)
            else:
                sent.answer.set_exception(outcome)
        return rest

    def _failed(self, batch: Sequence[Sent], error: Exception) -> None:
        if isinstance(error, errors.WorkerLost) and not self._is_dead:
            self._is_dead = True
            self._on_death([sent for sent in self._sent if not sent.is_cleared])
        # A call that cannot even be pickled must not take those with it that were gathered beside it.
        if not isinstance(error, errors.ClusterError) and len(batch) > 1:
            for sent in batch:
                self._spawn(self._carry([sent]))
            return
        known = error if isinstance(error, errors.ClusterError) else errors.BadRequest(f"It cannot be sent: {error}")
        for sent in batch:
            if not sent.answer.done():
                sent.answer.set_exception(known)

    def _expect(self, batch: Sequence[Sent]) -> None:
        if not self._sent:
            self._heard_at = asyncio.get_running_loop().time()
        for sent in batch:
            self._sent[sent] = None
        if self._listener is None or self._listener.done():
            self._listener = asyncio.ensure_future(self._listen())

    async def _listen(self) -> None:
        """A worker that computes for long still answers a ping; one that does not hangs, and its calls go elsewhere."""
        loop = asyncio.get_running_loop()
        while (self._sent or self._is_silent) and not self._is_dead:
            await asyncio.sleep(max(self._heard_at + SILENT_S - loop.time(), PING_PAUSE_S))
            if not self._is_silent and (not self._sent or loop.time() - self._heard_at < SILENT_S):
                continue
            try:
                await self.line.ping(PING_S)
            except errors.WorkerLost:
                return
            except errors.ClusterError:
                is_silent = True
            else:
                is_silent, self._heard_at = False, loop.time()
            if is_silent != self._is_silent:
                self._is_silent = is_silent
                self._on_silence(is_silent)
            if is_silent:
                self._give_up()
                continue
            for sent in self._sent:
                if sent.is_given_up and sent.is_cleared:
                    self._spawn(self._cancel(sent.call.id))

    def _give_up(self) -> None:
        """Whoever waits may ask elsewhere; the answer is still taken if it comes first."""
        for sent in self._sent:
            if not sent.is_given_up and not sent.answer.done():
                sent.is_given_up = True
                waiting, sent.answer = sent.answer, asyncio.get_running_loop().create_future()
                # Nobody may be left to take its error.
                sent.answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())
                waiting.set_exception(GivenUp(sent))

    def close(self) -> None:
        """The worker is not in the table any more; what is open is still answered."""
        self.line.retire()
        if self._listener is not None:
            self._listener.cancel()

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
        #: Of models whose workers died lately.
        self._suspicions: dict[str, Suspicion] = {}
        self._telling: set[asyncio.Task[None]] = set()
        self.table = RouteTable()
        self.keys: tuple[Key, ...] = ()
        self.seen_at = 0.0
        self._watcher = asyncio.get_running_loop().create_task(self._watch(), name="watch")

    @property
    def is_ready(self) -> bool:
        """True once there is a table: before, every model would look unknown."""
        return self.table.version >= 0

    async def first_table(self, within_s: float) -> None:
        """Returns when there is one, or when the time is up."""
        try:
            async with asyncio.timeout(within_s):
                while not self.is_ready:
                    await self._changed.wait()
        except TimeoutError:
            log.warning("the supervisor has not been heard of for %.0f s", within_s)

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
            or Gate(
                actors.Line(handle, *snapshot.sockets.get(name, ())),
                gather_s,
                self._metrics.gathered,
                partial(self._see_death, name),
                partial(self._see_silence, name),
            )
            for name, handle in snapshot.handles.items()
        }
        for name in before.keys() - self._gates.keys():
            before[name].close()
        now = asyncio.get_running_loop().time()
        for uid, poison in snapshot.poison:
            self._suspicions.setdefault(uid, Suspicion()).remember(poison, now)
        self._announce()

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
        """The answer and the worker that gave it. Sent again, elsewhere, when nothing was answered: nothing that is
        computed changes anything, so a second time does no harm."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        question = Question(model, ability, list(items), dict(params), owner, deadline, alone)
        try:
            return await self._ask(question, set(), 0)
        except errors.Overloaded as refusal:
            raise later(refusal, random.uniform(1, MOST_LATER)) from None

    async def _ask(self, question: Question, tried: set[str], losses: int) -> tuple[Answer, str]:
        loop = asyncio.get_running_loop()
        refusal: errors.ClusterError | None = None
        #: Workers that try somebody else's call alone.
        reserved: set[str] = set()
        attempts = 0
        while attempts < ATTEMPTS and losses < MOST_LOSSES:
            model = await self._usable(question.model, tried, question.deadline, refusal)
            avoiding = next((those for those in (tried | reserved, tried) if self.table.is_usable(model, those)), ())
            suspicion = self._suspicion_of(model.uid)
            if suspicion is not None:
                suspicion.refuse(question.fingerprint, model.uid, loop.time())
            with self.table.choose(model, avoiding) as route:
                # Request ids are the caller's and may be used twice; a call's own id is not.
                self._calls += 1
                call = question.call(f"{question.owner}#{self._metrics.ingress}{self._calls}", loop.time())
                gate = self._gates[route.worker]
                is_suspect = suspicion is not None and suspicion.goes_alone(question.fingerprint, loop.time())
                try:
                    gate.refuse(question.size)
                    answer = await (gate.send_tried if is_suspect else gate.send)(call, question.is_long)
                    self.table.queued[route.worker] = gate.queued
                    self._clear(question)
                    return answer, route.worker
                except GivenUp as silence:
                    return await self._first(silence.sent, gate, route.worker, question, tried, losses)
                except ELSEWHERE as error:
                    refusal = error
                except errors.ClusterError:
                    self._clear(question)
                    raise
            if isinstance(refusal, errors.WorkerReserved):
                reserved.add(route.worker)
                if not self.table.is_usable(model, tried | reserved):
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
        self, sent: Sent, gate: Gate, worker: str, question: Question, tried: set[str], losses: int
    ) -> tuple[Answer, str]:
        """What comes first: the answer of a worker that was given up, or that of another."""
        elsewhere = asyncio.ensure_future(self._ask(question, tried | {worker}, losses))
        try:
            await asyncio.wait((elsewhere, sent.answer), return_when=asyncio.FIRST_COMPLETED)
            if sent.answer.done() and not sent.answer.exception():
                return sent.answer.result(), worker
            answer = await elsewhere
            sent.is_cleared = True
            return answer
        finally:
            elsewhere.cancel()
            if not sent.answer.done():
                gate.forget(sent)

    def _suspicion_of(self, uid: str) -> Suspicion | None:
        """None as long as nothing is suspected of the model's calls, which is nearly always."""
        suspicion = self._suspicions.get(uid)
        if suspicion is not None and suspicion.is_over(asyncio.get_running_loop().time()):
            del self._suspicions[uid]
            return None
        return suspicion

    def _clear(self, question: Question) -> None:
        """It was answered, if only with an error: its worker lives."""
        suspicion = self._suspicions.get(question.model.uid)
        if suspicion is not None:
            suspicion.answered(question.fingerprint)

    def _see_death(self, worker: str, sent: Sequence[Sent]) -> None:
        """A worker died with these calls."""
        name = WorkerName.parse(worker)
        if name is None:
            return
        now = asyncio.get_running_loop().time()
        suspicion = self._suspicions.setdefault(name.uid, Suspicion())
        alone = next((each for each in sent if each.is_alone), None)
        if alone is None:
            suspects = {each.fingerprint for each in sent}
            suspicion.died(worker, suspects, now, are_short=not any(each.is_long for each in sent))
        else:
            poison = alone.fingerprint
            ended = suspicion.died_alone(worker, poison, now)
            log.error("a request to %s ended %s and is refused from now on", name.uid, ", ".join(ended))
            self._tell_supervisor("poisoned", name.uid, poison, ended)

    def _see_silence(self, worker: str, is_silent: bool) -> None:
        if is_silent:
            log.warning("%s has work and answers nothing; its calls go elsewhere", worker)
            self.table.avoided.add(worker)
            self._tell_supervisor("suspect", worker)
        else:
            self.table.avoided.discard(worker)
            self._announce()

    def _tell_supervisor(self, method: str, *args: Any) -> None:
        async def tell() -> None:
            try:
                await self._control.call(method, *args)
            except errors.ClusterError as error:
                log.warning("the supervisor was not told of %s: %s", method, error)

        task = asyncio.ensure_future(tell())
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    def _announce(self) -> None:
        """Wakes whoever waits for a worker."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

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
