"""Puts new versions of models on trial, has them take the place of the old ones, or brings the old ones back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from cluster import errors
from cluster.control.canary import MOST_LOSSES, Canary, CanaryLimits, Ruling, judged
from cluster.control.changes import carried_over
from cluster.control.fleet import Fleet
from cluster.control.publishing import Publisher
from cluster.control.reconcile import NO_LOSS
from cluster.control.records import Records
from cluster.launch import Wanted
from cluster.status import WorkerState
from cluster.tally import CanaryTally

log = logging.getLogger("cluster.control.trying")


def trial_of(fleet: Fleet, wanted: Wanted) -> Canary | None:
    """The trial of an update that asks for one. None where nothing serves that it could be compared with."""
    last, before = fleet.last_ready.get(wanted.uid), fleet.wanted.get(wanted.uid)
    if not wanted.spec.canary or last is None or before is None or before.generation == wanted.generation:
        return None
    on_trial = fleet.canaries.on_trial.get(wanted.uid)
    if on_trial is not None:
        last = on_trial.before
    elif before.generation == last.generation:
        # It may have been scaled or renamed since it was READY.
        last = before
    return Canary(generation=wanted.generation, percent=float(wanted.spec.canary), before=last)


def trial_after(fleet: Fleet, wanted: Wanted) -> Canary | None:
    """The trial that is under way, with what people have changed meanwhile; None where there is none of that
    version."""
    before, on_trial = fleet.wanted.get(wanted.uid), fleet.canaries.on_trial.get(wanted.uid)
    if before is None or on_trial is None or on_trial.generation != wanted.generation:
        return None
    return on_trial.model_copy(update={"before": carried_over(before, wanted, on_trial.before)})


def rulings_of(fleet: Fleet, now: float) -> dict[str, Ruling]:
    """Of all models with a version on trial that do not rest."""
    trials = fleet.canaries.on_trial.items()
    return {uid: _ruling_of(fleet, uid, canary, now) for uid, canary in trials if not fleet.resting.rests(uid)}


def _ruling_of(fleet: Fleet, uid: str, canary: Canary, now: float) -> Ruling:
    workers = [worker for worker in fleet.workers.of(uid) if worker.name.generation == canary.generation]
    failed = next((worker for worker in workers if worker.state == WorkerState.FAILED), None)
    if failed is not None:
        return Ruling("return", failed.reason)
    loss = fleet.losses.get((uid, 0), NO_LOSS)
    if loss.count >= MOST_LOSSES:
        return Ruling("return", f"its worker was lost {loss.count} times")
    if not any(worker.state == WorkerState.READY for worker in workers):
        fleet.canaries.since.pop(uid, None)
        return Ruling("wait", fleet.waiting[uid].reason if uid in fleet.waiting else "it is not loaded yet")
    served_s = now - fleet.canaries.since.setdefault(uid, now)
    limits = CanaryLimits(fleet.settings.canary_s, fleet.settings.canary_requests)
    return judged(*fleet.canaries.counted(uid), served_s, limits)


def go_on(fleet: Fleet, uid: str) -> None:
    """The rest of its workers are replaced as well."""
    fleet.canaries.forget(uid)
    fleet.workers.touch(uid)


def turn_back(fleet: Fleet, uid: str) -> Wanted:
    """The old version is wanted again, and its workers have never stopped."""
    wanted = fleet.wanted[uid]
    before = fleet.canaries.serving(wanted).model_copy(update={"declared": wanted.declared})
    fleet.want(before)
    return before


async def end_trial(fleet: Fleet, records: Records, uid: str, ruling: Ruling) -> None:
    """Nothing else may change meanwhile."""
    generation = fleet.canaries.on_trial[uid].generation
    if ruling.verdict == "go on":
        await records.delete("canary", uid)
        go_on(fleet, uid)
        records.tell(
            uid, "INFO", f"The canary (generation {generation}) takes the place of the old version: {ruling.why}"
        )
        return
    before = turn_back(fleet, uid)
    text = f"The canary (generation {generation}) is given up for generation {before.generation}: {ruling.why}"
    records.tell(uid, "ERROR", text)
    row = before.model_dump(mode="json")
    try:
        await records.put("wish", uid, row)
    except (errors.OutOfSpace, errors.Unavailable):
        # A version that fails is not served for want of space on a disk.
        records.put_later("wish", uid, row)


class Trying:
    def __init__(
        self,
        fleet: Fleet,
        records: Records,
        publisher: Publisher,
        wake: asyncio.Event,
    ) -> None:
        """`wake` begins the next tick at once."""
        self._fleet = fleet
        self._records = records
        self._publisher = publisher
        self._wake = wake
        #: By the uid of the model.
        self._ending: dict[str, asyncio.Task[None]] = {}

    def hear(self, ingress: str, tallies: Sequence[CanaryTally]) -> None:
        for tally in tallies:
            self._fleet.canaries.hear(ingress, tally)

    def decide(self, now: float) -> None:
        """Ends the trials that are decided, and tells of each how it stands."""
        canaries = self._fleet.canaries
        for uid, ruling in rulings_of(self._fleet, now).items():
            if canaries.why.get(uid) != ruling.why:
                canaries.why[uid] = ruling.why
                self._fleet.workers.untold.add(uid)
            if ruling.verdict != "wait" and uid not in self._ending:
                ending = asyncio.ensure_future(self._end(uid, canaries.on_trial[uid].generation, ruling))
                self._ending[uid] = ending
                ending.add_done_callback(lambda _, uid=uid: self._ending.pop(uid, None))  # type: ignore[misc]

    async def _end(self, uid: str, generation: int, ruling: Ruling) -> None:
        try:
            await self._records.alone(self._end_now(uid, generation, ruling))
        except errors.ClusterError as error:
            log.warning("the trial of %s goes on, since that it is over could not be written: %s", uid, error)

    async def _end_now(self, uid: str, generation: int, ruling: Ruling) -> None:
        canary = self._fleet.canaries.on_trial.get(uid)
        # Somebody may have wanted another version meanwhile.
        if canary is not None and canary.generation == generation:
            await end_trial(self._fleet, self._records, uid, ruling)
            self._publisher.publish()
            self._wake.set()

    async def stop(self) -> None:
        for ending in self._ending.values():
            ending.cancel()
        await asyncio.gather(*self._ending.values(), return_exceptions=True)
