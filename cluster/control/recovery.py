"""How a new supervisor takes over: what is wanted from the store, and the workers that run from their names.

There is no other recovery: what it finds is what every later tick starts from. A wanted model that this version cannot
read keeps its workers and its route.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress

from cluster import errors
from cluster.control import newer
from cluster.control.canary import Canary
from cluster.control.fleet import Fleet
from cluster.control.peaks import Peak, oldest
from cluster.control.platform import Handle
from cluster.control.records import Records
from cluster.control.resting import Rest
from cluster.control.scaling import Scale
from cluster.control.watching import Watch
from cluster.launch import Wanted
from cluster.settings import Settings
from cluster.status import Claim, Report, WorkerName

log = logging.getLogger("cluster.control.recovery")
#: How long a supervisor that comes back waits for workers that do not answer, before it ends them.
ADOPTION_S = 15.0
DESCRIBE_TIMEOUT_S = 5.0


class Recovery:
    def __init__(
        self,
        fleet: Fleet,
        watch: Watch,
        records: Records,
        settings: Settings,
        clock: Callable[[], float],
        is_salvaged: bool,
    ) -> None:
        """`is_salvaged`: models are missing from the store that nobody terminated."""
        self._fleet = fleet
        self._watch = watch
        self._records = records
        self._settings = settings
        self._clock = clock
        self._is_salvaged = is_salvaged

    async def read_wanted(self) -> None:
        for uid, row in (await self._records.all("wish")).items():
            wanted, unreadable = newer.read(uid, row)
            self._fleet.want(wanted, unreadable)
            if unreadable:
                self._records.tell(uid, "WARNING", unreadable)
        ready = [newer.read(uid, row) for uid, row in (await self._records.all("ready")).items()]
        self._fleet.remember(wanted for wanted, unreadable in ready if not unreadable)
        for uid, rest in (await self._records.readable("rest", Rest)).items():
            if uid in self._fleet.wanted:
                self._fleet.resting.remember(uid, rest)
        for uid, scale in (await self._records.readable("scale", Scale)).items():
            stored = None if uid in self._fleet.unreadable else self._fleet.wanted.get(uid)
            if stored is not None and (bounds := stored.spec.bounds) is not None:
                self._fleet.want(stored.scaled(bounds.nearest(scale.replica)))
        for uid, canary in (await self._records.readable("canary", Canary)).items():
            stored = None if uid in self._fleet.unreadable else self._fleet.wanted.get(uid)
            # A trial that is over leaves its row behind.
            if stored is not None and stored.generation == canary.generation:
                self._fleet.canaries.begin(uid, canary)
        self._fleet.peaks = await self._records.readable("peak", Peak)
        for key in oldest(self._fleet.peaks):
            del self._fleet.peaks[key]
            with suppress(errors.OutOfSpace, errors.Unavailable):
                await self._records.delete("peak", key)

    async def adopt(self, handles: Mapping[WorkerName, Handle]) -> None:
        """Returns when every worker has spoken, or has been ended for saying nothing."""
        adopting = (self._adopt(name, handle) for name, handle in handles.items())
        for name, failure in zip(handles, await asyncio.gather(*adopting, return_exceptions=True), strict=True):
            if isinstance(failure, Exception):
                # A worker that answers in an unforeseen way must not keep the others from being looked after.
                log.error("%s could not be adopted", name, exc_info=failure)

    async def _adopt(self, name: WorkerName, handle: Handle) -> None:
        deadline = self._clock() + ADOPTION_S
        while True:
            try:
                wanted, claim, report = await handle.describe(timeout_s=DESCRIBE_TIMEOUT_S)
                break
            except errors.WorkerLost:
                return
            except errors.Unavailable:
                if self._clock() > deadline and name.uid in self._fleet.unreadable:
                    return await self._adopt_as_it_is(name, handle)
                if self._clock() > deadline:
                    # Left running it might wake up beside its own replacement.
                    log.warning("%s does not answer and is ended", name)
                    handle.kill()
                    return
                await asyncio.sleep(self._settings.tick_s)
            except errors.ClusterError as error:
                if name.uid in self._fleet.unreadable:
                    return await self._adopt_as_it_is(name, handle)
                log.warning("%s cannot be understood and is replaced: %s", name, error)
                handle.kill()
                return
        if report.phase == "failed":
            handle.kill()
            return
        if self._is_salvaged:
            await self._take_back(name, wanted)
        if name.uid in self._fleet.unreadable:
            # Where the store is damaged, the worker still knows what it is.
            with suppress(AttributeError, TypeError, ValueError):
                readable = newer.read(name.uid, wanted.model_dump(mode="json"))[0]
                self._fleet.want(readable, self._fleet.unreadable[name.uid])
        self._fleet.adopt(name, report, claim, self._clock())
        self._watch.begin(name, handle)
        self._records.tell(name.uid, "INFO", f"Adopted worker {name} (pid {report.pid}) on {report.node_ip}")

    async def _take_back(self, name: WorkerName, wanted: Wanted) -> None:
        """A wanted model that the store lost, from a worker made for it: a damaged file must not end a worker."""
        stored = self._fleet.wanted.get(name.uid)
        is_stored = stored is not None and not self._records.is_unsaved("wish", name.uid)
        if is_stored or (stored is not None and stored.generation > wanted.generation):
            return
        if wanted.spec.gpu_idx is None and wanted.spec.replica_config is None:
            # It may have been scaled since; its workers show how many there were.
            is_same = stored is not None and stored.generation == wanted.generation
            replica = max(name.index + 1, stored.replica if stored is not None and is_same else 1)
            wanted = wanted.scaled(replica)
        self._fleet.want(wanted)
        self._records.put_later("wish", name.uid, wanted.model_dump(mode="json"))
        await self._records.raise_later("generation", wanted.generation)
        self._records.tell(name.uid, "WARNING", "The store had lost this model; it is taken back from its worker.")

    async def _adopt_as_it_is(self, name: WorkerName, handle: Handle) -> None:
        """A worker of a newer version, whose answers cannot be read: it is sent work, and watched for its death."""
        try:
            node_id, node_ip, pid = await handle.whereabouts()
        except errors.ClusterError as error:
            log.warning("%s is left alone: %s", name, error)
            return
        claim = Claim(self._fleet.wanted[name.uid].claim_bytes)
        report = Report(phase="ready", pid=pid, node_id=node_id, node_ip=node_ip)
        self._fleet.adopt(name, report, claim, self._clock())
        self._watch.begin_from_outside(name, handle)
        self._records.tell(name.uid, "WARNING", f"Worker {name} (pid {pid}) on {node_ip} is left as it is")
