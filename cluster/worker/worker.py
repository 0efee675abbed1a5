"""One launched model in one process: load, warm up, infer, drain.

Knows nothing of Ray. Inference runs on the event loop that first calls `infer`, the model in one thread of its own, and
control calls on whichever loop they come from; between them travels only what is thread-safe.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from cluster import errors
from cluster.calls import Answer, Call, OpenCall, View
from cluster.cards import ReadCards, no_cards
from cluster.figures import Figures
from cluster.launch import Wanted
from cluster.metrics import page
from cluster.settings import Settings
from cluster.status import LOG_LINES, Claim, Report
from cluster.versioned import Versioned
from cluster.weights.neighbours import Neighbours
from cluster.worker.card_room import CardRoom
from cluster.worker.examples import example_call, fails_example
from cluster.worker.exhaustion import why_not_loaded
from cluster.worker.family import Prepared
from cluster.worker.holding import ModelHolder
from cluster.worker.idleness import Idleness
from cluster.worker.load import Backlog, LoadMeter
from cluster.worker.load_cycle import LoadCycle
from cluster.worker.loading import ModelLoader
from cluster.worker.metrics import WorkerMetrics
from cluster.worker.outcomes import Outcome, Uncollected
from cluster.worker.reservation import Reservation
from cluster.worker.talking import Send
from cluster.worker.work import Outputs, Work

log = logging.getLogger("cluster.worker.worker")

#: Inputs below this many characters are encoded at once; a thread hop would cost more than the work.
INLINE_CHARACTERS = 4_000
#: What processes take that a launch starts, from which on that is logged.
NOTED_BYTES = 50_000_000


class Worker:
    def __init__(
        self,
        name: str,
        wanted: Wanted,
        claim: Claim,
        settings: Settings,
        card_device: str = "cuda",
        neighbours: Neighbours | None = None,
        read_cards: ReadCards = no_cards,
    ) -> None:
        self.name = name
        self._wanted = wanted
        self._claim = claim
        self._settings = settings
        self._epoch = 0
        self._prepare_threads = ThreadPoolExecutor(2, "prepare")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._uncollected = Uncollected()
        self._reservation = Reservation(name)
        self._meter = LoadMeter(self._backlog, lambda: self._reservation.working, self._post)
        self._idleness = Idleness(self._meter.see_idleness)
        self._failed_at = float("-inf")
        #: The calls that it had when it first failed after it had computed.
        self._failed_with: tuple[str, ...] = ()
        self._metrics = WorkerMetrics(wanted.uid, name)
        self._lines: deque[str] = deque(maxlen=LOG_LINES)
        _tail_into(self._lines, settings.log_level)
        self._threads = 1
        cards = tuple(card for card, _ in claim.cards)
        self._board = Versioned(Report(pid=os.getpid(), cards=cards, created=time.time()))
        loader = ModelLoader(wanted, claim, settings, card_device, self._board, neighbours)
        room = CardRoom(claim, read_cards)
        self._model = ModelHolder(name, wanted, settings, self._metrics, loader, claim.is_measured, room)
        self._cycle = LoadCycle(self._board, self._load, self._drop, lambda: self._reservation.working)

    # ------------------------------------------------------------------------------------ control

    async def start(self, epoch: int, where: tuple[str, str], threads: int) -> None:
        """Begins to load, once, and again where it dozes; `where` is the node's id and address."""
        self._obey(epoch)
        if self._board.value.phase in ("created", "dozing"):
            self._threads = threads
        self._cycle.wake(node_id=where[0], node_ip=where[1])

    async def doze(self, epoch: int) -> None:
        """Takes nothing new and drops its model when what it has is done; reports `dozing` then, or `drained` where
        only its end would give the memory back."""
        self._obey(epoch)
        self._cycle.nod()
        if self._loop is None:
            self._cycle.see_end()
        else:
            self._loop.call_soon_threadsafe(self._cycle.see_end)

    async def report(self, epoch: int, seen: int, wait_s: float) -> tuple[int, Report]:
        """What there is to say, as soon as it is not what was seen."""
        self._obey(epoch)
        return await self._board.newer(seen, wait_s)

    async def describe(self) -> tuple[Wanted, Claim, Report]:
        """For a supervisor that finds this worker running."""
        return self._wanted, self._claim, self._board.value

    async def set_threads(self, epoch: int, threads: int) -> None:
        self._obey(epoch)
        if threads != self._threads:
            self._threads = threads
            if self._board.value.phase == "ready" and self._model.work is not None:
                self._model.work.loader.submit(self._model.family.set_threads, threads)

    async def drain(self, epoch: int) -> None:
        """Takes nothing new; reports `drained` when what it has is done."""
        self._obey(epoch)
        if self._board.value.phase not in ("draining", "drained"):
            self._post(phase="draining" if self._reservation.working else "drained")

    async def cancel(self, owners: Sequence[str], block_s: float = 0.0) -> bool:
        """Drops the work of these requests; True when there was any. Stepped families take none of it for a while."""
        work = self._model.work
        if self._loop is None or work is None:
            return False

        async def drop(work: Work) -> bool:
            for owner in owners:
                self._reservation.end(owner)
            return any([work.cancel(owner, block_s) for owner in owners])

        return await asyncio.wait_for(asyncio.wrap_future(asyncio.run_coroutine_threadsafe(drop(work), self._loop)), 5)

    async def watch(self, owner: str, seen: int, wait_s: float) -> View | None:
        """How far a request is, as soon as it is not what was seen; None when it is not known here."""
        work = self._model.work
        return None if work is None else await work.watch(owner, seen, wait_s)

    async def under_way(self) -> Sequence[OpenCall]:
        work = self._model.work
        return () if work is None else work.under_way()

    async def logs(self, lines: int) -> list[str]:
        return list(self._lines)[-lines:]

    async def metrics(self) -> bytes:
        return page(self._model.measured())

    async def figures(self) -> Figures:
        return self._model.figures(self._board.value.memory.own_bytes)

    # ------------------------------------------------------------------------------------ inference

    async def infer(self, calls: Sequence[Call]) -> tuple[list[Outcome | None], int]:
        """Answers or errors, one per call, and how many requests this worker has in hand.

        As soon as one of several is refused, this returns what there is so far, so that nobody waits for a refusal.
        None stands for a call that is still being computed; its answer is to be collected.
        """
        self._idleness.begin()
        try:
            if len(calls) == 1:
                return [await self._answer(calls[0])], self._reservation.working
            answering = [(call.id, asyncio.ensure_future(self._answer(call))) for call in calls]
            return await self._uncollected.first_of(answering), self._reservation.working
        finally:
            self._idleness.end()

    async def talk(self, call: Call, send: Send) -> Outcome:
        """Answers one call, whose pieces `send` takes as they come."""
        self._idleness.begin()
        try:
            return await self._answer(call, send)
        finally:
            self._idleness.end()

    async def collect(self, ids: Sequence[str]) -> tuple[list[Outcome | None], int]:
        """The answers to calls that `infer` left open, in the same way."""
        self._idleness.begin()
        try:
            return await self._uncollected.first_of(self._uncollected.taken(ids)), self._reservation.working
        finally:
            self._idleness.end()

    async def reserve(self, owner: str, wait_s: float) -> None:
        """Empties this worker for one call: others are refused until it is answered. If this process ends while it is
        computed, nothing else can be to blame."""
        refusal = self._refusal()
        if refusal is not None and not isinstance(refusal, errors.WorkerReserved):
            raise refusal
        self._loop = asyncio.get_running_loop()
        await self._reservation.take(owner, wait_s)
        work, seconds = self._model.work, self._settings.probe_timeout_s
        # After a failure it has to be known that the next one would be this call's own.
        if work is not None and self._is_in_doubt(work) and await fails_example(self._model.family, work, seconds):
            self._reservation.end(owner)
            raise errors.WorkerDraining(f"{self.name} fails its own example, so nothing can be tried there.")

    def _is_in_doubt(self, work: Work) -> bool:
        """It has failed a call since it last computed one. What streams shows by each step that it computes."""
        return self._failed_at > work.computed_at and self._model.family.contract == "batched"

    async def probe(self) -> float:
        """Seconds that a real forward pass on the example took, waiting included."""
        started = time.perf_counter()
        work = self._model.work
        if work is not None:
            # It has just shown that it computes. After a failure only the example tells whether the model is to blame.
            has_failed = self._failed_at > work.computed_at
            if not has_failed and started - work.computed_at < self._settings.probe_s:
                return 0.0
            # It computes, or does so for one call only. One that fails everything is busy as well.
            is_busy = self._reservation.owner is not None or work.is_busy()
            if is_busy and not self._is_in_doubt(work):
                return 0.0
        outcome = await self._answer(example_call(self._model.family, self._settings.probe_timeout_s))
        # A full queue says nothing of the model behind it; the next probe will.
        if isinstance(outcome, errors.ClusterError) and not isinstance(outcome, errors.Overloaded):
            raise outcome
        return time.perf_counter() - started

    async def failing(self) -> Sequence[str] | None:
        """The calls that it had when it began to fail, for an ingress that has seen it fail one; None unless it fails
        its own example too. Also while it drains, or is kept free for one call."""
        work = self._model.work
        if work is None or self._failed_at <= work.computed_at:
            return None
        if work.is_busy() and not self._is_in_doubt(work):
            return None
        fails = await fails_example(self._model.family, work, self._settings.probe_timeout_s)
        return self._failed_with if fails else None

    async def overdue(self) -> Sequence[str]:
        """The ids of calls that are computed for much longer than is usual."""
        return self._model.work.overdue() if self._model.work is not None else ()

    async def _answer(self, call: Call, send: Send | None = None) -> Outcome:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        refusal = self._refusal(call.id)
        if refusal is not None:
            return refusal
        assert self._model.work is not None
        self._reservation.begin_call(call.id)
        try:
            prepared = await self._prepare(call, self._model.work.prepares_inline)
            if prepared.answers is not None:
                return Answer(prepared.answers, sum(prepared.tokens))
            is_alone = self._reservation.owner == call.id
            outputs = await self._model.work.outputs(call, prepared, is_alone, send)
            if send is not None:
                outputs = outputs._replace(values=[])  # they have gone already, piece by piece
            return self._answered(call, prepared, outputs)
        except errors.ClusterError as error:
            return self._failed(error)
        # An input that a family did not foresee must not reach the other callers of this actor call.
        except Exception as error:
            log.exception("request %s failed", call.id)
            return self._failed(errors.InferenceFailed(f"{type(error).__name__}: {error}"))
        finally:
            self._reservation.end_call(call.id)
            if not self._reservation.working and self._board.value.phase != "ready":
                self._see_end()

    def _see_end(self) -> None:
        """It has nothing in hand any more, and takes nothing new."""
        if self._board.value.phase == "draining":
            self._post(phase="drained")
        self._cycle.see_end()

    def _refusal(self, call_id: str = "") -> errors.ClusterError | None:
        phase = self._board.value.phase
        if phase == "ready":
            if self._reservation.owner in (None, call_id):
                return None
            return errors.WorkerReserved(f"{self.name} tries one call alone.", retry_after_s=1.0)
        if phase in ("draining", "drained", "nodding", "dozing"):
            return errors.WorkerDraining(f"{self.name} takes no more work.", retry_after_s=1.0)
        return errors.ModelLoading(f"Model is loading, please retry later: {self._wanted.uid}", retry_after_s=30.0)

    async def _prepare(self, call: Call, is_inline: bool) -> Prepared:
        if is_inline and sum(map(_size_of, call.items)) <= INLINE_CHARACTERS:
            return self._model.family.prepare(call.ability, call.items, call.params)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._prepare_threads, self._model.family.prepare, call.ability, call.items, call.params
        )

    def _answered(self, call: Call, prepared: Prepared, outputs: Outputs) -> Answer:
        now = time.perf_counter()
        waited = max(outputs.started_at - outputs.queued_at, 0.0)
        tokens = sum(prepared.tokens)
        self._metrics.answered(waited, now - outputs.queued_at, tokens)
        # What was kept from before needed no computing.
        ran = now - outputs.queued_at - waited if outputs.started_at else 0.0
        values = outputs.values if prepared.join is None else prepared.join(outputs.values)
        return Answer(self._model.family.pack(values, call.params), tokens, waited * 1000, ran * 1000)

    def _failed(self, error: errors.ClusterError) -> errors.ClusterError:
        if isinstance(error, errors.InferenceFailed):
            if self._model.work is None or self._failed_at <= self._model.work.computed_at:
                self._failed_with = self._reservation.calls
            self._failed_at = time.perf_counter()
        self._metrics.failed(error)
        self._meter.see_failure(error)
        return error

    # ------------------------------------------------------------------------------------ loading

    def _load(self) -> None:
        try:
            changes = self._model.load(self._threads)
        # Whatever a model library raises becomes the reason that people read.
        except Exception as error:
            log.exception("%s could not be loaded", self.name)
            model, claim = self._model, self._claim
            needs, full = model.meter.needs(), model.room.when_full
            reason = why_not_loaded(self._wanted.uid, error, model.stage, claim, needs, full)
            self._post(phase="failed", error=reason, log_tail=tuple(self._lines)[-20:])
        else:
            self._post(phase="ready", **changes)

    def _drop(self) -> int | None:
        self._failed_at = float("-inf")
        return self._model.drop(self._loop)

    def _backlog(self) -> Backlog:
        return Backlog() if self._model.work is None else self._model.work.backlog()

    def _post(self, **changes: Any) -> None:
        self._board.amend(lambda report: replace(report, **changes))

    def _obey(self, epoch: int) -> None:
        """A supervisor that was replaced has no say any more, and what it waits for ends: it would take up a thread."""
        if epoch < self._epoch:
            raise errors.StaleEpoch(f"{self.name} obeys epoch {self._epoch}, not {epoch}.")
        if epoch > self._epoch:
            self._epoch = epoch
            self._post()


def _size_of(item: Any) -> int:
    """How much there is to read: characters of a text, bytes of a picture."""
    if isinstance(item, dict):
        return sum(len(value) for value in item.values() if isinstance(value, (str, bytes)))
    return len(item) if isinstance(item, (str, list)) else 0


def _tail_into(lines: deque[str], level: str) -> None:
    """Keeps the end of this process's log at hand: it is what a failed launch shows."""

    class Tail(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.extend(self.format(record).splitlines())

    handler = Tail()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level)
    # It logs every address it asks, signed ones included.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.captureWarnings(True)
