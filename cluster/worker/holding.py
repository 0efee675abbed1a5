"""The model of a worker, which is loaded, dropped, and loaded again in the same process."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
import traceback
import weakref
from pathlib import Path
from typing import Any

import psutil

from cluster.facts import ModelFacts, SentFacts
from cluster.figures import Doing, Figures
from cluster.launch import Wanted
from cluster.metrics import Samples
from cluster.settings import Settings
from cluster.status import LoadProgress
from cluster.worker.card_room import CardRoom
from cluster.worker.exhaustion import Stage, bytes_asked
from cluster.worker.family import AnyFamily, load_family
from cluster.worker.loading import ModelLoader, give_memory_back, warm_up
from cluster.worker.metrics import WorkerMetrics
from cluster.worker.peak import PeakMeter, children, held, torch_cards
from cluster.worker.work import Work, work_of

log = logging.getLogger("cluster.worker.worker")

#: What processes take that a launch starts, from which on that is logged.
NOTED_BYTES = 50_000_000
#: How long something may still keep a model that is dropped.
LET_GO_S = 1.0


class ModelHolder:
    def __init__(
        self,
        name: str,
        wanted: Wanted,
        settings: Settings,
        metrics: WorkerMetrics,
        loader: ModelLoader,
        is_measured: bool,
        room: CardRoom,
    ) -> None:
        """`is_measured`: what it takes at its largest is known, and is not tried."""
        self._name = name
        self._wanted = wanted
        self._settings = settings
        self._metrics = metrics
        self._loader = loader
        self._is_measured = is_measured
        self.room = room
        self.family: AnyFamily = load_family(wanted.family)()
        #: Made when the loading begins, and usable when it has ended.
        self.work: Work | None = None
        #: How often it was loaded.
        self.loads = 0
        #: What loading has come to, and what it took until then.
        self.stage: Stage = "was loaded"
        self.meter = PeakMeter(room.read)
        #: Of this process, before the model had any.
        self._children = frozenset(children())

    def load(self, threads: int) -> dict[str, Any]:
        """What there is to report of the loaded model; raises whatever a model library does. Where the cards are full
        of what others have, it is tried once more when that has come free."""
        try:
            return self._load_once(threads)
        # Whatever a library raises when memory runs out, it says so in words only.
        except Exception as error:
            needs = self.meter.needs()
            if not self.room.is_short(error, needs):
                raise
            log.warning("its card is full, and others have what it may have; it waits for that: %s", error)
            self._start_over(error)
            if not self.room.wait(needs.card_bytes + bytes_asked(error)):
                raise
        try:
            return self._load_once(threads)
        except Exception as error:
            # Says for the reason who has the card now.
            self.room.is_short(error, self.meter.needs())
            raise

    def _start_over(self, error: BaseException) -> None:
        """Lets go of all that a load had until it failed, so that others have that room too."""
        cause: BaseException | None = error
        while cause is not None:
            traceback.clear_frames(cause.__traceback__)
            cause = cause.__cause__ or cause.__context__
        try:
            self.family.unload()
        # Of a model that is half loaded anything may be missing.
        except Exception:
            log.exception("what was loaded of it could not be ended in order")
        self.family = load_family(self._wanted.family)()
        give_memory_back()
        _empty_cards()
        self._loader.show("waiting for memory", 0.0)

    def _load_once(self, threads: int) -> dict[str, Any]:
        started = time.monotonic()
        self.stage, self.meter = "was loaded", PeakMeter(self.room.read)
        work = work_of(self.family, self._name, self._settings, self._metrics)
        folder = self._loader.fetch(self._wanted.source)
        with self.meter:
            facts, is_full = work.loader.submit(self._load, folder, work, threads).result()
        if self.meter.beside > NOTED_BYTES:
            log.info("processes that it started meanwhile took %.0f MB at most", self.meter.beside / 1e6)
        # What was dropped in between may have left gaps, which are not what such a launch needs.
        peak = None if self.loads or self.family.is_elsewhere else self.meter.needs()
        work.loaded()
        self.work = work
        give_memory_back()
        memory = psutil.Process().memory_full_info().uss
        seconds, most = time.monotonic() - started, "" if peak is None else f", {peak.memory_bytes // 10**6} at most"
        self._metrics.loaded(seconds, memory)
        log.info("%s is ready after %.1f s with %d MB%s", self._name, seconds, memory // 10**6, most)
        self.loads += 1
        return {
            "progress": LoadProgress("ready", 1.0),
            "facts": SentFacts.of(facts),
            "memory_bytes": memory,
            "peak": peak,
            "is_peak_full": is_full,
            "load_seconds": seconds,
            "loads": self.loads,
        }

    def measured(self) -> Samples:
        if self.work is not None:
            self.work.measure()
        return self._metrics.collect()

    def figures(self, memory_bytes: int) -> Figures:
        return self._metrics.figures(Doing() if self.work is None else self.work.doing(), memory_bytes)

    def _load(self, folder: Path, work: Work, threads: int) -> tuple[ModelFacts, bool]:
        """What the model says about itself, and whether it was warmed up at the largest size."""
        facts = self._loader.load(self.family, folder, threads)
        self.stage = "computed its largest request"
        # Whoever waits for one that dozed would wait for that as well, and it was done when it was first loaded.
        return facts, warm_up(self.family, work, self._is_measured or self.loads > 0)

    def drop(self, loop: asyncio.AbstractEventLoop | None) -> int | None:
        """Lets go of the model, and of all that was made of it; `loop` is the one that takes requests. What the process
        still takes, or None where something keeps the model: then only the end of the process gives its memory back."""
        before, work, dropped = held(), self.work, weakref.ref(self.family)
        self.work = None
        self.family.unload()
        self.family = load_family(self._wanted.family)()
        if work is not None and loop is not None:
            asyncio.run_coroutine_threadsafe(_close(work), loop).result()
        elif work is not None:
            work.close()
        del work
        deadline = time.monotonic() + LET_GO_S
        give_memory_back()
        # The thread that computed last may still be on its way back.
        while dropped() is not None and time.monotonic() < deadline:
            time.sleep(0.05)
            give_memory_back()
        # What is left are the libraries: to look through them takes a quarter of a second, with every load.
        gc.freeze()
        _empty_cards()
        after = held()
        if dropped() is not None or not self._children.issuperset(children()):
            log.warning("%s cannot doze: something keeps its model", self._name)
            return None
        log.info("%s dozes with %d MB, it had %d", self._name, after // 10**6, before // 10**6)
        return after


async def _close(work: Work) -> None:
    work.close()
    await asyncio.sleep(0)  # its tasks end only now


def _empty_cards() -> None:
    cards = torch_cards()
    if cards is not None:
        cards.empty_cache()
        for number in range(cards.device_count()):
            cards.reset_peak_memory_stats(number)
