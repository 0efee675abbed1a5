"""Watches the workers: follows what they report, probes that they compute, takes orders to them, ends them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from cluster import errors
from cluster.control.fleet import Fleet
from cluster.control.lifecycle import ENDED, SERVES, WorkerEvent, WorkerRecord
from cluster.control.platform import Handle, Platform
from cluster.control.records import Records
from cluster.settings import Settings
from cluster.status import Memory, Report, WorkerName, WorkerState

log = logging.getLogger("cluster.control.watching")
E = WorkerEvent
S = WorkerState
#: How long one long poll on a worker is held; its failure is the death notice.
REPORT_WAIT_S = 10.0
#: Reports, and probes, that end without news in a second, of all workers together: where there are more workers each is
#: asked less often. A death is heard at once all the same, and an ingress misses the answers of one that has work.
MOST_PER_S = 20.0
#: A control call that takes longer than this was not answered.
CONTROL_TIMEOUT_S = 10.0
#: Lines are asked for every second by those who follow them; whoever is late is asked again.
LOGS_TIMEOUT_S = 3.0
#: A suspect whose control thread says nothing for so long hangs as a whole, and one question to it.
HUNG_S = 4.0
HEAR_S = 2.0
#: A model that fails its own example is asked for it again after this pause, and its process ends if it fails again.
FAILED_PAUSE_S = 1.0


@dataclass
class _Watched:
    """The tasks and the handle that belong to one worker."""

    handle: Handle
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class Watch:
    """Holds a handle for every worker of the fleet, and tells the fleet what is heard of it."""

    def __init__(
        self,
        fleet: Fleet,
        platform: Platform,
        settings: Settings,
        records: Records,
        clock: Callable[[], float],
        wake: asyncio.Event,
    ) -> None:
        """`wake` begins the next tick at once."""
        self._fleet = fleet
        self._platform = platform
        self._settings = settings
        self._records = records
        self._clock = clock
        self._wake = wake
        self._watched: dict[str, _Watched] = {}
        self._background_tasks: set[asyncio.Task[Any]] = set()
        #: A worker has refused an order because a newer supervisor has spoken to it.
        self.is_superseded = False

    @property
    def handles(self) -> dict[str, Handle]:
        return {name: watched.handle for name, watched in self._watched.items()}

    def handle_of(self, name: str) -> Handle | None:
        watched = self._watched.get(name)
        return None if watched is None else watched.handle

    def begin(self, name: WorkerName, handle: Handle) -> None:
        self._watched[str(name)] = _Watched(handle)
        self._spawn(str(name), self._follow(str(name), handle))
        self._spawn(str(name), self._probe(str(name), handle))

    def begin_from_outside(self, name: WorkerName, handle: Handle) -> None:
        """For a worker of another version, whose reports cannot be read: only its death is looked out for."""
        self._watched[str(name)] = _Watched(handle)
        self._spawn(str(name), self._await_death(str(name), handle))

    def end(self, worker: WorkerRecord) -> None:
        """Kills a worker and forgets it."""
        watched = self._watched.pop(str(worker), None)
        self._fleet.workers.pop(str(worker), None)
        if watched is not None:
            watched.handle.kill()
            for task in watched.tasks:
                task.cancel()

    async def stop(self) -> None:
        """Leaves the workers to the next supervisor."""
        tasks = [task for watched in self._watched.values() for task in watched.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        watched = self._watched.get(name)
        task = asyncio.ensure_future(work)
        if watched is not None:
            watched.tasks = [old for old in watched.tasks if not old.done()] + [task]

    def _background(self, work: Coroutine[Any, Any, Any]) -> None:
        """Keeps a task that belongs to no living worker until it is done."""
        task = asyncio.ensure_future(work)
        self._background_tasks.add(task)
        task.add_done_callback(self._background_tasks.discard)

    # ------------------------------------------------------------------------------------ following

    async def _follow(self, name: str, handle: Handle) -> None:
        """One call is always pending at a worker: it brings every change, and its failure is the death notice."""
        version = -1
        while name in self._fleet.workers:
            state = self._fleet.workers[name].state
            wait_s = REPORT_WAIT_S if state != S.READY else pause_s(REPORT_WAIT_S, len(self._fleet.workers))
            # A process that is still being started has not had its chance to answer yet.
            patience = self._settings.start_timeout_s if state == S.STARTING else wait_s + CONTROL_TIMEOUT_S
            try:
                version, report = await handle.report(self._records.epoch, version, wait_s, timeout_s=patience)
            except errors.WorkerLost as lost:
                self._hear(name, E.DIED, str(lost))
                return
            except errors.StaleEpoch:
                self._stand_back()
                return
            except errors.Unavailable:
                self._hear(name, E.SILENT, "does not answer")
                await asyncio.sleep(self._settings.tick_s)
                continue
            if name not in self._fleet.workers or self._fleet.workers[name].state in ENDED:
                return
            self._see_report(name, handle, report)

    def _see_report(self, name: str, handle: Handle, report: Report) -> None:
        before, before_report = self._fleet.workers[name].state, self._fleet.workers[name].report
        after = self._fleet.see_report(name, report, self._clock())
        uid = after.name.uid
        if after.state == S.READY and before != S.READY:
            self._records.tell(uid, "INFO", f"Worker {name} is READY after {report.load_seconds:.1f} s")
        if after.state == S.FAILED and before != S.FAILED:
            self._records.tell(uid, "ERROR", f"Worker {name} failed: {after.reason}")
            # Its claim is given back with its state; the process may not outlive that.
            handle.kill()
        if report.trouble and report.trouble != before_report.trouble and after.state in SERVES:
            self._hear(name, E.SILENT, report.trouble)
        # A long poll that ended without news brings an old reading of the memory once more.
        if report.memory != before_report.memory:
            self._see_memory(after.node, report.memory)
        if _is_urgent(report, before_report):
            self._wake.set()

    async def _await_death(self, name: str, handle: Handle) -> None:
        while name in self._fleet.workers:
            try:
                await handle.logs(1, timeout_s=CONTROL_TIMEOUT_S)
                self._hear(name, E.ANSWERED, "")
            except errors.WorkerLost as lost:
                self._hear(name, E.DIED, str(lost))
                return
            except errors.ClusterError as error:
                log.debug("%s: %s", name, error)
            await asyncio.sleep(self._settings.tick_s)

    def _hear(self, name: str, event: WorkerEvent, reason: str) -> None:
        """What came back from a call; the worker may have been dropped while the call was under way."""
        worker = self._fleet.workers.get(name)
        if worker is None:
            return
        if event == E.DIED and worker.state != S.LOST:
            self.see_own_memory()
            reason = self._fleet.why_died(worker, reason, self._clock())
        self.see(name, event, reason)

    def see(self, name: str, event: WorkerEvent, reason: str) -> WorkerRecord:
        before = self._fleet.workers[name]
        after = self._fleet.see(name, event, self._clock(), reason)
        if after.state != before.state:
            self._wake.set()
            if after.state in (S.LOST, S.SUSPECT):
                self._records.tell(after.name.uid, "WARNING", f"Worker {name} is {after.state}: {reason}")
            if after.state == S.SUSPECT and after.name.uid not in self._fleet.unreadable:
                self._background(self._end_if_hung(name))
        return after

    # ------------------------------------------------------------------------------------ suspecting

    async def _probe(self, name: str, handle: Handle) -> None:
        """A real forward pass now and then; it finds the worker that answers but does not compute."""
        while name in self._fleet.workers:
            is_suspect = self._fleet.workers[name].state == S.SUSPECT
            pause = pause_s(self._settings.probe_s, len(self._fleet.workers))
            await asyncio.sleep(self._settings.tick_s if is_suspect else pause)
            worker = self._fleet.workers.get(name)
            if worker is None or worker.state not in SERVES:
                continue
            await self._probe_once(name, handle)

    async def _probe_once(self, name: str, handle: Handle) -> errors.InferenceFailed | None:
        """The error with which the model fails its own example, if it does."""
        try:
            await handle.probe(self._settings.probe_timeout_s)
            self._hear(name, E.ANSWERED, "")
        except (errors.WorkerDraining, errors.ModelLoading):
            return None
        except errors.WorkerLost as lost:
            self._hear(name, E.DIED, str(lost))
        except errors.ClusterError as error:
            self._hear(name, E.SILENT, f"probe: {error}")
            if isinstance(error, errors.InferenceFailed):
                return error
        return None

    def suspect(self, name: str) -> None:
        """An ingress hears nothing from this worker, which has work, or has seen it fail its own example."""
        if name in self._fleet.workers and self._fleet.workers[name].state == S.READY:
            self.see(name, E.SILENT, "an ingress gets no answers from it")

    def end_overdue(self, names: Iterable[str]) -> None:
        """These workers were given a call that ends workers: those that hang with it are not waited for."""
        for name in names:
            watched = self._watched.get(name)
            if watched is not None:
                self._background(self._end_if_overdue(name, watched.handle))

    async def _end_if_overdue(self, name: str, handle: Handle) -> None:
        try:
            if await handle.overdue(HEAR_S):
                await self._end_process(name, "hung with a request that is refused from now on")
        except errors.ClusterError as error:
            log.info("%s is not there any more, or will be missed: %s", name, error)

    async def _end_process(self, name: str, reason: str) -> None:
        worker = self._fleet.workers.get(name)
        if worker is None or worker.state not in SERVES or not worker.report.pid:
            return
        if await self._platform.end_process(worker.node, worker.report.pid):
            self._hear(name, E.DIED, reason)

    async def _end_if_hung(self, name: str) -> None:
        """Ends a suspect whose control thread is silent as well: a process that only computes would answer. Where even
        its machine does not answer nothing is known, and the deadline of its state decides."""
        deadline = self._clock() + HUNG_S
        while self._clock() < deadline:
            worker, watched = self._fleet.workers.get(name), self._watched.get(name)
            if worker is None or watched is None or worker.state != S.SUSPECT:
                return
            try:
                await watched.handle.report(self._records.epoch, -1, 0.0, timeout_s=HEAR_S)
                await self._end_if_broken(name, watched.handle)
                return
            except errors.Unavailable:
                await asyncio.sleep(0.1)
            except errors.ClusterError:
                return
        worker = self._fleet.workers.get(name)
        if worker is not None and worker.state == S.SUSPECT:
            await self._end_process(name, f"answered nothing for {HUNG_S:.0f} s and was ended")

    async def _end_if_broken(self, name: str, handle: Handle) -> None:
        if await self._probe_once(name, handle) is None:
            return
        await asyncio.sleep(FAILED_PAUSE_S)
        if name in self._fleet.workers and (error := await self._probe_once(name, handle)) is not None:
            await self._end_process(name, f"fails its own example and was ended: {error}")

    def see_expired(self, now: float) -> None:
        """Ends what stayed in a state beyond its deadline."""
        for worker in self._fleet.expired(now):
            after = self.see(str(worker), E.EXPIRED, f"{worker.state} for {now - worker.since:.0f} s")
            if after.report.pid and after.state == S.LOST:
                # A process that does not answer a probe may not react to a kill, and would keep its memory.
                self._background(self._platform.end_process(after.node, after.report.pid))

    # ------------------------------------------------------------------------------------ memory

    def see_own_memory(self) -> None:
        """Workers report the memory of their nodes; this node's can be read without any."""
        reading = self._platform.memory()
        if reading is not None:
            self._see_memory(*reading)

    def _see_memory(self, node: str, memory: Memory) -> None:
        """Ends the worker that gives way, if any: not politely, memory does not wait."""
        decision = self._fleet.see_memory(node, memory, self._clock())
        if decision is None:
            return
        worker, reason = decision
        self._background(self._platform.end_process(worker.node, worker.report.pid))
        watched = self._watched.get(str(worker))
        if watched is not None:
            watched.handle.kill()
        self.see(str(worker), E.DIED, reason)

    # ------------------------------------------------------------------------------------ orders

    def order(self, name: str, order: Callable[[Handle], Awaitable[None]]) -> None:
        """A command whose failure needs no answer here: `_follow` hears of a death, a deadline of silence."""
        self._spawn(name, self._carry_out(name, order))

    async def _carry_out(self, name: str, order: Callable[[Handle], Awaitable[None]]) -> None:
        watched = self._watched.get(name)
        if watched is None:
            return
        try:
            await order(watched.handle)
        except errors.StaleEpoch:
            self._stand_back()
        except errors.ClusterError as error:
            log.warning("%s did not take an order: %s", name, error)

    def _stand_back(self) -> None:
        self.is_superseded = True
        self._wake.set()

    # ------------------------------------------------------------------------------------ asking

    async def logs(self, uid: str, count: int) -> dict[str, list[str] | errors.ClusterError]:
        """The last lines of each worker of a model, or why it did not answer, by the name of the worker."""
        if uid not in self._fleet.wanted:
            raise errors.UnknownUid(f"Model not found in the model list, uid: {uid}", "model_uid")
        workers = list(self._fleet.of(uid))
        lines = await asyncio.gather(*(self._logs_of(worker, count) for worker in workers))
        return dict(zip(map(str, workers), lines, strict=True))

    async def _logs_of(self, worker: WorkerRecord, count: int) -> list[str] | errors.ClusterError:
        handle = self.handle_of(str(worker))
        if handle is None or worker.state == S.FAILED:
            return list(worker.report.log_tail)
        try:
            return await handle.logs(count, timeout_s=LOGS_TIMEOUT_S)
        except errors.ClusterError as error:
            return error


def _is_urgent(report: Report, before: Report) -> bool:
    """Whether it is idle can wait for the next tick, and how much it has to do."""
    unhurried = replace(report, memory=before.memory, is_idle=before.is_idle, spells=before.spells, load=before.load)
    return unhurried != before


def pause_s(usual_s: float, workers: int) -> float:
    """Until a worker, one of so many, is asked something again. By chance, so that they are not all asked at once."""
    return max(usual_s, random.uniform(0, 2) * workers / MOST_PER_S)
