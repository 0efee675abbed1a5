"""From a wanted model to a loaded one: finds the weights, checks the options, and has the family load them."""

from __future__ import annotations

import ctypes
import gc
import logging
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster import errors
from cluster.catalog.entry import Source
from cluster.facts import ModelFacts
from cluster.launch import Wanted
from cluster.settings import Settings
from cluster.status import Claim, Report
from cluster.trust import is_pinned_by_us, may_run_code
from cluster.versioned import Versioned
from cluster.weights.locate import locate
from cluster.weights.neighbours import Neighbours
from cluster.worker.family import AnyFamily, Prepared, Setup
from cluster.worker.work import Work

log = logging.getLogger("cluster.worker.worker")

#: Share of the way to READY that a download, if there is one, takes up.
DOWNLOAD_SHARE = 0.8
#: How far a model is that the family has loaded, and that has yet to compute its example.
LOADED_SHARE = 0.95


class ModelLoader:
    def __init__(
        self,
        wanted: Wanted,
        claim: Claim,
        settings: Settings,
        card_device: str,
        board: Versioned[Report],
        neighbours: Neighbours | None = None,
    ) -> None:
        """`card_device`: what torch calls the kind of card that was claimed, if one was. `board`: where progress is
        reported."""
        self._wanted = wanted
        self._claim = claim
        self._settings = settings
        self._card_device = card_device
        self._board = board
        self._neighbours = neighbours
        self._measured: dict[str, Any] = {}

    def fetch(self, source: Source) -> Path:
        settings = self._settings
        return locate(
            source,
            home=settings.home,
            offline=settings.offline,
            allow_pickle=self.may_unpickle(source),
            roots=settings.model_roots,
            report=lambda progress: self._board.amend(
                lambda report: replace(report, progress=replace(progress, fraction=progress.fraction * DOWNLOAD_SHARE))
            ),
            neighbours=self._neighbours,
        )

    def may_unpickle(self, source: Source) -> bool:
        """Pinned revisions of our own catalogue are trusted: many older repositories have nothing but pickles."""
        return self._settings.allow_pickle or is_pinned_by_us(self._wanted.entry, source)

    def load(self, family: AnyFamily, folder: Path, threads: int) -> ModelFacts:
        """Called in the model's own thread: some libraries keep state per thread."""
        wanted, settings, spec = self._wanted, self._settings, self._wanted.spec
        options = family.Options.model_validate({**wanted.entry.options, **spec.options})
        start = self._board.value.progress.fraction

        def report(fraction: float, stage: str = "loading") -> None:
            self.show(stage, start + (LOADED_SHARE - start) * fraction)

        report(0.1)
        facts = family.load(
            Setup(
                entry=wanted.entry,
                source=wanted.source,
                options=options,
                folder=folder,
                device=self._card_device if self._claim.cards else "cpu",
                threads=threads,
                card_share=min((share for _, share in self._claim.cards), default=1.0),
                cards=len(self._claim.cards),
                quantization=spec.quantization,
                asked=frozenset(spec.options),
                engine=spec.model_engine,
                home=settings.home,
                allow_pickle=self.may_unpickle(wanted.source),
                remote_code=may_run_code(wanted.entry, wanted.source, settings.remote_code),
                settings=settings,
                measured=self._measured,
                fetch=self.fetch,
                report=report,
            )
        )
        family.set_threads(threads)
        self.show("launching", LOADED_SHARE)
        return facts

    def show(self, stage: str, fraction: float) -> None:
        def amended(report: Report) -> Report:
            return replace(report, progress=replace(report.progress, stage=stage, fraction=fraction))

        self._board.amend(amended)


def prepared_example(family: AnyFamily) -> Prepared:
    example = family.example
    return family.prepare(example.ability, example.items, example.params)


def prepared_largest(family: AnyFamily) -> Prepared | None:
    """A request of the largest size; None where the family has none, or the launch refuses what is as large as that."""
    largest = family.largest
    if largest is None and family.contract == "batched":
        largest = family.example  # it is repeated until the batch is full
    if largest is None:
        return None
    try:
        return family.prepare(largest.ability, largest.items, largest.params)
    except errors.BadRequest:
        return None


def warm_up(family: AnyFamily, work: Work, is_measured: bool = False) -> bool:
    """Computes the example, and then as much as is ever computed at once, which is what the memory is measured at;
    False where that is not known, would take too long, or has been done by one like it: whoever waits for a worker that
    takes the place of one that died would wait for that as well."""
    work.warm_up(prepared_example(family))
    if is_measured:
        return False
    largest = prepared_largest(family)
    is_full = largest is not None and work.strain(largest)
    log.info("its memory was %smeasured at the largest size", "" if is_full else "not ")
    return is_full


def give_memory_back() -> None:
    """Returns what loading needed for a while to the system; the allocator would keep it for later."""
    gc.collect()
    # Only glibc has this function, and only glibc keeps memory so.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
