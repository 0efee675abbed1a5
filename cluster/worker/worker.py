"""One launched model in one process: load, warm up, infer, drain.

Knows nothing of Ray. Inference runs on the event loop that first calls `infer`, the model in one thread of its own, and
control calls on whichever loop they come from; between them travels only what is thread-safe.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from cluster import errors
from cluster.calls import Answer, Call, View
from cluster.catalog.entry import Source
from cluster.facts import ModelFacts, SentFacts
from cluster.launch import Wanted
from cluster.settings import Settings
from cluster.status import Claim, LoadProgress, Report
from cluster.trust import is_pinned_by_us, may_run_code
from cluster.versioned import Versioned
from cluster.weights.locate import locate
from cluster.worker.batching import Batcher, Item
from cluster.worker.cache import Cache
from cluster.worker.family import AnyFamily, Prepared, Progress, Setup, Unwatched, load_family
from cluster.worker.metrics import WorkerMetrics
from cluster.worker.stepping import SteppedQueue

log = logging.getLogger("cluster.worker.worker")

#: Inputs below this many characters are encoded at once; a thread hop would cost more than the work.
INLINE_CHARACTERS = 4_000
LOG_LINES = 400
#: Of the threads that compute, and of those which a model library starts from them.
MODEL_NICENESS = 5
#: Share of the way to READY that a download, if there is one, takes up.
DOWNLOAD_SHARE = 0.8
#: How long a worker is kept free for a call that does not come, and the least pause before it is reserved again.
RESERVED_S = 5.0
PAUSE_S = 0.02
#: How long an answer waits for the ingress to collect it.
COLLECT_S = 30.0

Outcome = Answer | errors.ClusterError


class Worker:
    def __init__(self, name: str, wanted: Wanted, claim: Claim, settings: Settings, card_device: str = "cuda") -> None:
        self.name = name
        #: What torch calls the kind of card that it was given, should it have been given one.
        self._card_device = card_device
        self._wanted = wanted
        self._claim = claim
        self._settings = settings
        self._epoch = 0
        self._family: AnyFamily = load_family(wanted.family)()
        self._model_threads = ThreadPoolExecutor(1, "model", _give_way)
        self._prepare_threads = ThreadPoolExecutor(2, "prepare")
        self._batcher: Batcher | None = None
        self._jobs: SteppedQueue | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        #: Tokens per second of the pass at the end of loading.
        self._first_speed = 0.0
        self._working = 0
        #: Calls that were taken while others of the same message were refused; their answers are collected later.
        self._taken: dict[str, asyncio.Task[Outcome]] = {}
        #: The call that is tried alone, if there is one.
        self._reserved_for: str | None = None
        self._reserved_at = 0.0
        self._may_reserve = asyncio.Lock()
        self._idle = asyncio.Event()
        self._last_batch = float("-inf")
        self._metrics = WorkerMetrics(wanted.uid, name)
        self._lines: deque[str] = deque(maxlen=LOG_LINES)
        _tail_into(self._lines, settings.log_level)
        self._threads = 1
        cards = tuple(card for card, _ in claim.cards)
        self._board = Versioned(Report(pid=os.getpid(), cards=cards, created=time.time()))
        self._start_lock = threading.Lock()
        self._loader: threading.Thread | None = None

    # ------------------------------------------------------------------------------------ control

    async def start(self, epoch: int, where: tuple[str, str], threads: int) -> None:
        """Begins to load, once; `where` is the node's id and address."""
        self._obey(epoch)
        with self._start_lock:
            if self._loader is not None:
                return
            self._threads = threads
            self._post(phase="loading", node_id=where[0], node_ip=where[1])
            self._loader = threading.Thread(target=self._load, name="load", daemon=True)
            self._loader.start()

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
            if self._board.value.phase == "ready":
                self._model_threads.submit(self._family.set_threads, threads)

    async def drain(self, epoch: int) -> None:
        """Takes nothing new; reports `drained` when what it has is done."""
        self._obey(epoch)
        if self._board.value.phase not in ("draining", "drained"):
            self._post(phase="draining" if self._working else "drained")

    async def cancel(self, owners: Sequence[str], block_s: float = 0.0) -> bool:
        """Drops the work of these requests; True when there was any. What streams takes none of that id for a while."""

        async def drop() -> bool:
            for owner in owners:
                self._open_again(owner)
            if self._streams:
                return any([self._stream_jobs().cancel(owner, block_s) for owner in owners])
            return any([self._queue().cancel(owner) for owner in owners])

        if self._loop is None:
            return False
        return await asyncio.wait_for(asyncio.wrap_future(asyncio.run_coroutine_threadsafe(drop(), self._loop)), 5)

    async def watch(self, owner: str, seen: int, wait_s: float) -> View | None:
        """How far a request is, as soon as it is not what was seen; None when it is not known here."""
        return await self._jobs.watch(owner, seen, wait_s) if self._jobs is not None else None

    async def logs(self, lines: int) -> list[str]:
        return list(self._lines)[-lines:]

    async def samples(self) -> list[Any]:
        """Metric families of this process."""
        if self._batcher is not None:
            self._metrics.queue(self._batcher)
        return self._metrics.collect()

    # ------------------------------------------------------------------------------------ inference

    async def infer(self, calls: Sequence[Call]) -> tuple[list[Outcome | None], int]:
        """Answers or errors, one per call, and how many requests this worker has in hand.

        As soon as one of several is refused all there is so far is told, so that nobody waits for a refusal. What is
        still computed is None, and its answer is to be collected.
        """
        if len(calls) == 1:
            return [await self._answer(calls[0])], self._working
        return await self._told([(call.id, asyncio.ensure_future(self._answer(call))) for call in calls])

    async def collect(self, ids: Sequence[str]) -> tuple[list[Outcome | None], int]:
        """The answers to calls that `infer` left open, in the same way."""
        return await self._told([(id, self._taken.pop(id)) for id in ids])

    async def _told(self, answering: Sequence[tuple[str, asyncio.Task[Outcome]]]) -> tuple[list[Outcome | None], int]:
        left, is_enough = len(answering), asyncio.Event()

        def look(task: asyncio.Task[Outcome]) -> None:
            nonlocal left
            left -= 1
            if not left or (not task.cancelled() and isinstance(task.result(), errors.Overloaded)):
                is_enough.set()

        for _, task in answering:
            task.add_done_callback(look)
        try:
            await is_enough.wait()
            # Other refusals are decided in the same turn of the loop.
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            for _, task in answering:
                task.cancel()
            raise
        loop = asyncio.get_running_loop()
        outcomes: list[Outcome | None] = []
        for id, task in answering:
            outcomes.append(task.result() if task.done() else None)
            if not task.done():
                self._taken[id] = task
                # Nobody collects for an ingress that has died.
                loop.call_later(COLLECT_S, self._drop_uncollected, id, task)
        return outcomes, self._working

    def _drop_uncollected(self, id: str, task: asyncio.Task[Outcome]) -> None:
        if self._taken.get(id) is task:
            self._taken.pop(id).cancel()

    async def reserve(self, owner: str, wait_s: float) -> None:
        """Empties this worker for one call: others are refused until it is answered. If this process ends while it is
        computed, nothing else can be to blame."""
        refusal = self._refusal()
        if refusal is not None and not isinstance(refusal, errors.WorkerReserved):
            raise refusal
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(wait_s):
                await self._may_reserve.acquire()
                self._reserved_for, self._reserved_at = owner, time.perf_counter()
                while self._working:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            self._open_again(owner)
            raise errors.WorkerReserved(f"{self.name} had no time for one call alone within {wait_s:.0f} s.") from None
        except asyncio.CancelledError:
            self._open_again(owner)
            raise
        self._loop.call_later(RESERVED_S, self._open_unused, owner)

    def _open_unused(self, owner: str) -> None:
        if not self._working:
            self._open_again(owner)

    def _open_again(self, owner: str) -> None:
        if self._reserved_for != owner:
            return
        self._reserved_for = None
        # Others get as much of the worker as those who are tried alone.
        pause = max(PAUSE_S, time.perf_counter() - self._reserved_at)
        asyncio.get_running_loop().call_later(pause, self._may_reserve.release)

    async def probe(self) -> float:
        """Seconds that a real forward pass on the example took, waiting included."""
        started = time.perf_counter()
        if started - self._last_batch < self._settings.probe_s or self._reserved_for is not None:
            return 0.0  # it has just shown that it computes, or does so for one call only
        if self._batcher is not None and self._batcher.busy:
            return 0.0  # it has work, and a batch that hangs ends the process
        if self._jobs is not None and self._jobs.running:
            # What it works on may take minutes, and shows at each step that it goes on.
            return self._sign_of_life()
        example = self._family.example
        call = Call("probe", list(example.items), dict(example.params), self._settings.probe_timeout_s, example.ability)
        outcome = await self._answer(call)
        # A full queue says nothing of the model behind it; the next probe will.
        if isinstance(outcome, errors.ClusterError) and not isinstance(outcome, errors.Overloaded):
            raise outcome
        return time.perf_counter() - started

    def _sign_of_life(self) -> float:
        assert self._jobs is not None
        if not self._jobs.is_alive:
            raise errors.Unavailable(f"{self.name} works on something and shows no progress.", retry_after_s=5.0)
        return 0.0

    async def _answer(self, call: Call) -> Outcome:
        refusal = self._refusal(call.id)
        if refusal is not None:
            return refusal
        self._working += 1
        try:
            prepared = await self._prepare(call)
            if prepared.answers is not None:
                return Answer(prepared.answers, sum(prepared.tokens))
            if self._streams:
                return await self._streamed(call, prepared)
            ticket = self._queue().submit(
                prepared.values,
                prepared.tokens,
                key=(call.ability, prepared.key),
                seconds_left=call.seconds_left,
                owner=call.id,
                identities=None if call.params.get("cache") is False else prepared.identities,
            )
            # The queue drops what is late; this bounds what is already running.
            async with asyncio.timeout(call.seconds_left + 1):
                outputs = await ticket.done
            return self._answered(call, prepared, ticket.queued_at, ticket.started_at, outputs)
        except TimeoutError:
            return self._failed(errors.DeadlineExceeded(f"The request's {call.seconds_left:.0f} s ran out."))
        except errors.ClusterError as error:
            return self._failed(error)
        # An input that a family did not foresee must not reach the other callers of this actor call.
        except Exception as error:
            log.exception("request %s failed", call.id)
            return self._failed(errors.InferenceFailed(f"{type(error).__name__}: {error}"))
        finally:
            self._working -= 1
            self._open_again(call.id)
            if not self._working:
                self._idle.set()
                if self._board.value.phase == "draining":
                    self._post(phase="drained")

    async def _streamed(self, call: Call, prepared: Prepared) -> Answer:
        costs = prepared.tokens if prepared.costs is None else prepared.costs
        job = self._stream_jobs().submit(prepared.values, costs, owner=call.id, seconds_left=call.seconds_left)
        outputs = await job.done
        self._last_batch = time.perf_counter()
        return self._answered(call, prepared, job.queued_at, job.started_at, outputs)

    def _refusal(self, call_id: str = "") -> errors.ClusterError | None:
        phase = self._board.value.phase
        if phase == "ready":
            if self._reserved_for in (None, call_id):
                return None
            return errors.WorkerReserved(f"{self.name} tries one call alone.", retry_after_s=1.0)
        if phase in ("draining", "drained"):
            return errors.WorkerDraining(f"{self.name} takes no more work.", retry_after_s=1.0)
        return errors.ModelLoading(f"Model is loading, please retry later: {self._wanted.uid}", retry_after_s=30.0)

    async def _prepare(self, call: Call) -> Prepared:
        if not self._streams and sum(map(_size_of, call.items)) <= INLINE_CHARACTERS:
            return self._family.prepare(call.ability, call.items, call.params)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._prepare_threads, self._family.prepare, call.ability, call.items, call.params
        )

    def _queue(self) -> Batcher:
        if self._batcher is None:
            self._loop = asyncio.get_running_loop()
            pace = self._family.pace
            settings = self._settings
            self._batcher = Batcher(
                self._run,
                self._model_threads if pace.parallel == 1 else ThreadPoolExecutor(pace.parallel, "model", _give_way),
                batch_tokens=pace.batch_tokens or settings.batch_tokens,
                queue_tokens=settings.queue_tokens,
                max_wait_s=settings.max_wait_s,
                max_wait_from=settings.max_wait_from,
                parallel=pace.parallel,
                pads=pace.pads,
                cache=Cache(settings.cache_bytes) if settings.cache_bytes else None,
                hung_s=settings.probe_timeout_s,
                first_speed=self._first_speed,
            )
            self._batcher.on_batch = self._ran
            self._batcher.on_hung = self._end_hung
        return self._batcher

    @property
    def _streams(self) -> bool:
        return self._family.contract == "stepped"

    def _let_loader_go(self) -> None:
        """What streams computes in threads of its own; that of the loading would only keep cores awake."""
        loader, self._model_threads = self._model_threads, ThreadPoolExecutor(1, "model", _give_way)
        loader.shutdown(wait=False)

    def _stream_jobs(self) -> SteppedQueue:
        if self._jobs is None:
            self._loop = asyncio.get_running_loop()
            pace = self._family.pace
            threads = ThreadPoolExecutor(pace.parallel, "model", _give_way)
            self._jobs = SteppedQueue(self._stream, threads, parallel=pace.parallel, speed=pace.speed)
        return self._jobs

    def _stream(self, value: Any, progress: Progress) -> Any:
        assert self._family.contract == "stepped"
        with _or_end():
            return self._family.stream(value, progress)

    def _run(self, batch: Sequence[Any]) -> Sequence[Any]:
        assert self._family.contract == "batched"
        with _or_end():
            return self._family.run(batch)

    def _answered(
        self, call: Call, prepared: Prepared, queued_at: float, started_at: float, outputs: list[Any]
    ) -> Answer:
        now = time.perf_counter()
        waited = max(started_at - queued_at, 0.0)
        tokens = sum(prepared.tokens)
        self._metrics.answered(waited, now - queued_at, tokens)
        ran = now - queued_at - waited
        if prepared.join is not None:
            outputs = prepared.join(outputs)
        return Answer(self._family.pack(outputs, call.params), tokens, waited * 1000, ran * 1000)

    def _failed(self, error: errors.ClusterError) -> errors.ClusterError:
        self._metrics.failed(error.code())
        return error

    def _end_hung(self, batch: Sequence[Item], seconds: float) -> None:
        """A thread cannot be stopped from outside; only a new process computes again."""
        log.critical("%s: a batch of %d inputs has run for %.0f s, this worker ends", self.name, len(batch), seconds)
        os._exit(70)

    def _ran(self, batch: Sequence[Item], seconds: float) -> None:
        self._last_batch = time.perf_counter()
        self._metrics.batch(len(batch), sum(item.tokens for item in batch), seconds)

    # ------------------------------------------------------------------------------------ loading

    def _load(self) -> None:
        started = time.monotonic()
        try:
            folder = self._fetch(self._wanted.source)
            facts = self._model_threads.submit(self._load_model, folder).result()
            if self._streams:
                self._let_loader_go()
            _give_back()
            memory = psutil.Process().memory_full_info().uss
            self._metrics.loaded(time.monotonic() - started, memory)
            log.info("%s is ready after %.1f s with %d MB", self.name, time.monotonic() - started, memory // 10**6)
            self._post(
                phase="ready",
                progress=LoadProgress("ready", 1.0),
                facts=SentFacts.of(facts),
                memory_bytes=memory,
                load_seconds=time.monotonic() - started,
            )
        # Whatever a model library raises becomes the reason that people read.
        except Exception as error:
            log.exception("%s could not be loaded", self.name)
            if not isinstance(error, errors.ClusterError):
                error = errors.LoadFailed(f"{self._wanted.uid} could not be loaded: {type(error).__name__}: {error}")
            self._post(phase="failed", error=error, log_tail=tuple(self._lines)[-20:])

    def _fetch(self, source: Source) -> Path:
        settings = self._settings
        return locate(
            source,
            home=settings.home,
            offline=settings.offline,
            allow_pickle=self._may_unpickle(source),
            roots=settings.model_roots,
            report=lambda progress: self._post(progress=replace(progress, fraction=progress.fraction * DOWNLOAD_SHARE)),
        )

    def _may_unpickle(self, source: Source) -> bool:
        """Pinned revisions of our own catalogue are trusted: many older repositories have nothing but pickles."""
        return self._settings.allow_pickle or is_pinned_by_us(self._wanted.entry, source)

    def _load_model(self, folder: Path) -> ModelFacts:
        """In the model's own thread: some libraries keep state per thread."""
        if self._family.contract == "talking":
            raise errors.LoadFailed(
                f"{self._wanted.uid} could not be loaded: workers cannot serve yet what brings a scheduler of its own."
            )
        spec = self._wanted.spec
        options = self._family.Options.model_validate({**self._wanted.entry.options, **spec.options})
        start = self._board.value.progress.fraction

        def loading(fraction: float, stage: str = "loading") -> None:
            progress = self._board.value.progress
            self._post(progress=replace(progress, stage=stage, fraction=start + (0.95 - start) * fraction))

        loading(0.1)
        facts = self._family.load(
            Setup(
                entry=self._wanted.entry,
                source=self._wanted.source,
                options=options,
                folder=folder,
                device=self._card_device if self._claim.cards else "cpu",
                threads=self._threads,
                card_share=min((share for _, share in self._claim.cards), default=1.0),
                quantization=spec.quantization,
                asked=frozenset(spec.options),
                engine=spec.model_engine,
                home=self._settings.home,
                allow_pickle=self._may_unpickle(self._wanted.source),
                remote_code=may_run_code(self._wanted.entry, self._wanted.source, self._settings.remote_code),
                fetch=self._fetch,
                report=loading,
            )
        )
        self._family.set_threads(self._threads)
        self._post(progress=replace(self._board.value.progress, stage="launching", fraction=0.95))
        example = self._family.example
        prepared = self._family.prepare(example.ability, example.items, example.params)
        started = time.perf_counter()
        if self._streams:
            for value in prepared.values:
                self._stream(value, Unwatched())
        else:
            self._run(prepared.values)
        # The first pass of all is slower than those that follow.
        self._first_speed = sum(prepared.tokens) / max(time.perf_counter() - started, 1e-6)
        return facts

    def _post(self, **changes: Any) -> None:
        self._board.amend(lambda report: replace(report, **changes))

    def _obey(self, epoch: int) -> None:
        """A supervisor that was replaced has no say any more."""
        if epoch < self._epoch:
            raise errors.StaleEpoch(f"{self.name} obeys epoch {self._epoch}, not {epoch}.")
        self._epoch = epoch


@contextmanager
def _or_end() -> Iterator[None]:
    """Ends this process when the accelerator fails: its context does not come back, every later call would fail too."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ == "AcceleratorError":
            log.critical("the accelerator failed, this worker ends: %s", error)
            os._exit(70)
        raise


def _give_back() -> None:
    """What loading took for a while goes back to the system; the allocator would keep it for later."""
    gc.collect()
    # Only glibc has it, and only there is there anything to give.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _give_way() -> None:
    """A model computes for seconds, whoever reads the next request for microseconds: that one goes first."""
    if sys.platform == "linux":  # elsewhere it would be the priority of another process
        thread = threading.get_native_id()
        # Only root may go back to less than the process was started with.
        os.setpriority(os.PRIO_PROCESS, thread, max(MODEL_NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))


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
