"""The only writer of state: keeps wishes, watches workers, and carries out the difference between the two.

Knows nothing of Ray: a `Platform` starts, finds and ends workers. Every tick is observe, step, reconcile, act; acting
may fail anywhere, because the next tick starts from observation again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar

from cluster import errors, metrics
from cluster.catalog.entry import Entry, Source
from cluster.control import newer
from cluster.control.changes import Change, asks_the_same, difference, differences
from cluster.control.fleet import Fleet
from cluster.control.fleet_metrics import samples_of
from cluster.control.lifecycle import Worker, WorkerEvent
from cluster.control.placement import NoRoom, Placement
from cluster.control.reconcile import Plan
from cluster.control.store import ITSELF, Kind, Store, StoreThread
from cluster.environment import split
from cluster.keys import Key, new_key
from cluster.launch import Wanted
from cluster.routes import Snapshot
from cluster.settings import Settings
from cluster.status import Claim, Event, Memory, ModelState, ModelStatus, Node, Report, WorkerName, WorkerState
from cluster.suspicion import MOST_POISON, POISON_S
from cluster.value import Value
from cluster.versioned import Versioned

log = logging.getLogger("cluster.control.supervisor")
E = WorkerEvent
S = WorkerState
V = TypeVar("V", bound=Value)
R = TypeVar("R")
#: How long one long poll on a worker is held; its failure is the death notice.
REPORT_WAIT_S = 10.0
#: A control call that takes longer than this was not answered.
CONTROL_TIMEOUT_S = 10.0
#: A tick that takes longer than this waits for something that does not come.
TICK_TIMEOUT_S = 60.0
#: With less than this left on its disk the cluster warns, while there is still room for the warning.
LOW_SPACE_BYTES = 500_000_000
#: How long a supervisor that comes back waits for workers that do not answer, before it ends them.
ADOPTION_S = 15.0
#: A suspect whose control thread says nothing for so long hangs as a whole, and one question to it.
HUNG_S = 4.0
HEAR_S = 2.0
POISON_TOLD_LESS_S = 10.0
#: Of a model that is not wanted any more, neither is kept.
KINDS_OF_A_MODEL: tuple[Kind, ...] = ("wish", "ready")
#: Nodes on which a dry run looks for a folder.
MOST_LOOKS = 8


class Handle(Protocol):
    """A worker somewhere. Raises WorkerLost when its process is gone, Unavailable when it does not answer."""

    #: What an ingress needs to call it.
    remote: Any

    async def control(self, method: str, *args: Any, timeout_s: float) -> Any: ...

    async def probe(self, timeout_s: float) -> float: ...

    async def whereabouts(self) -> tuple[str, str, int]:
        """Its node, the address of that, and its process, as the platform knows them without asking it."""

    def kill(self) -> None: ...


class Platform(Protocol):
    async def nodes(self) -> Sequence[Node]: ...

    async def start(self, name: WorkerName, wanted: Wanted, placement: Placement) -> Handle: ...

    async def find(self) -> Mapping[WorkerName, Handle]:
        """Workers that may be running, by what their names say."""

    async def look_for(self, node_id: str, source: Source) -> None:
        """Raises where a folder cannot be loaded from on that node."""

    async def end_process(self, node_id: str, pid: int) -> bool:
        """Ends a worker's process that does not even hear that it is to end; False where that cannot be done now."""

    def memory(self) -> tuple[str, Memory] | None:
        """The supervisor's own node and its memory, where that can be read."""


@dataclass
class _Watched:
    """The tasks and the handle that belong to one worker."""

    handle: Handle
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class Supervisor:
    def __init__(
        self,
        store: Store,
        platform: Platform,
        settings: Settings,
        *,
        new_suffix: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        is_salvaged: bool = False,
    ) -> None:
        """Reads the store before the loop begins. `is_salvaged`: wishes are missing from it that nobody took back."""
        self._store = StoreThread(store)
        #: Held while what is wanted changes: between the check and the change the store is waited for.
        self._changes = asyncio.Lock()
        self._platform = platform
        self._settings = settings
        self._clock = clock
        self._wall_clock = wall_clock
        self._is_salvaged = is_salvaged
        #: What the store should hold and could not be written yet, by kind and key.
        self._unsaved: dict[tuple[Kind, str], Any] = {}
        self._epoch = self._next_epoch(store)
        self._fleet = Fleet(settings, new_suffix)
        self._watched: dict[str, _Watched] = {}
        self._threads: dict[str, int] = {}
        self._keys = self._readable("key", store.all("key"), Key)
        # Above every version of an earlier supervisor: none posts a million changes a second.
        version = self._epoch << 20
        self._snapshots = Versioned(Snapshot(version, {}, {}, tuple(self._keys.values()), epoch=self._epoch), version)
        self._statuses: Versioned[Mapping[str, ModelStatus]] = Versioned({})
        self._samples: dict[str, metrics.Samples] = {}
        #: Until when each is told to the ingresses.
        self._poison: dict[tuple[str, str], float] = {}
        #: Launches that were READY once; they cannot be cancelled any more.
        self._launched: set[tuple[str, int]] = set()
        self._wake = asyncio.Event()
        self._recovered = asyncio.Event()
        self._started = clock()
        self._space: asyncio.Task[None] | None = None
        self._saving: asyncio.Task[None] | None = None
        self._free_bytes: int | None = None
        self._is_low_on_space = False
        self._task: asyncio.Task[None] | None = None
        self._others: set[asyncio.Task[None]] = set()

    def _next_epoch(self, store: Store) -> int:
        """Above every earlier one; where it cannot be written down at once, by the clock alone."""
        at_least = int(self._wall_clock())
        try:
            return store.next_number("epoch", at_least)
        except errors.OutOfSpace as error:
            log.error("going on without it: %s", error)
            epoch = max(store.number("epoch") + 1, at_least)
            self._unsaved["number", "epoch"] = epoch
            return epoch

    async def _save(self) -> None:
        """Writes down what nobody waits for; on a full disk it is tried again with the next tick."""
        try:
            async with self._changes:
                for kind, key in list(self._unsaved):
                    value = self._unsaved[kind, key]
                    await self._store.put(kind, key, value)
                    if self._unsaved.get((kind, key)) is value:
                        del self._unsaved[kind, key]
        except (errors.OutOfSpace, errors.Unavailable) as error:
            log.debug("not written yet: %s", error)

    async def _alone(self, change: Coroutine[Any, Any, R]) -> R:
        """One change after another, and each as a whole, also when the caller goes away in the middle of it."""

        async def in_turn() -> R:
            async with self._changes:
                return await change

        return await asyncio.shield(asyncio.ensure_future(in_turn()))

    # ------------------------------------------------------------------------------------ the loop

    def begin(self) -> None:
        """Starts the loop, once; must be called on the event loop that serves the other calls."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="supervisor")

    async def stop(self) -> None:
        """Ends the loop and leaves the workers to the next supervisor."""
        tasks = [task for watched in self._watched.values() for task in watched.tasks]
        ending = [task for task in (self._task, self._space, self._saving, *tasks) if task is not None]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await self._store.settled()

    async def _run(self) -> None:
        await self._recover()
        while True:
            self._wake.clear()
            try:
                # Ray may keep a question for ever; the next tick asks anew.
                async with asyncio.timeout(TICK_TIMEOUT_S):
                    await self._tick()
            # One bad tick must not end all later ones; the next begins with observation.
            except Exception:
                log.exception("a tick failed")
            self._recovered.set()
            try:
                # Not wait_for: it can swallow the cancellation that ends this loop.
                async with asyncio.timeout(self._settings.tick_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _recover(self) -> None:
        """Wishes from the store, workers by their names. Nothing is planned before every live worker has spoken."""
        for uid, stored in (await self._store.all("wish")).items():
            wish, unreadable = newer.read(uid, stored)
            self._fleet.want(wish, unreadable)
            if unreadable:
                self._tell(uid, "WARNING", unreadable)
        ready = [newer.read(uid, stored) for uid, stored in (await self._store.all("ready")).items()]
        self._fleet.remember(wish for wish, unreadable in ready if not unreadable)
        found: Mapping[WorkerName, Handle] = {}
        while True:
            try:
                self._fleet.see_nodes(await self._platform.nodes(), self._clock())
                found = await self._platform.find()
                break
            except Exception:
                log.exception("the platform does not answer; trying again")
                await asyncio.sleep(self._settings.tick_s)
        adopting = (self._adopt(name, handle) for name, handle in found.items())
        for name, failure in zip(found, await asyncio.gather(*adopting, return_exceptions=True), strict=True):
            if isinstance(failure, Exception):
                # One worker that answers in a way nobody foresaw is no reason not to look after the others.
                log.error("%s could not be adopted", name, exc_info=failure)

    def _readable(self, kind: Kind, stored: Mapping[str, Any], schema: type[V]) -> dict[str, V]:
        """What is stored of a kind. A row of another version, or a damaged one, is told and left alone: it is never a
        reason not to come up."""
        found = {}
        for key, value in stored.items():
            try:
                found[key] = schema.model_validate(value)
            except ValueError as error:
                self._tell(key, "ERROR", f"The stored {kind} cannot be read and is left out: {error}")
        return found

    async def _adopt(self, name: WorkerName, handle: Handle) -> None:
        deadline = self._clock() + ADOPTION_S
        while True:
            try:
                wanted, claim, report = await handle.control("describe", timeout_s=5.0)
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
                wish = newer.read(name.uid, wanted.model_dump(mode="json"))[0]
                self._fleet.want(wish, self._fleet.unreadable[name.uid])
        self._fleet.adopt(name, report, claim, self._clock())
        self._watch(name, handle)
        self._tell(name.uid, "INFO", f"Adopted worker {name} (pid {report.pid}) on {report.node_ip}")

    async def _take_back(self, name: WorkerName, wanted: Wanted) -> None:
        """A wish that the store lost, from a worker that was made for it: what runs is not ended for a damaged file."""
        known = self._fleet.wanted.get(name.uid)
        is_known = known is not None and ("wish", name.uid) not in self._unsaved
        if is_known or (known is not None and known.generation > wanted.generation):
            return
        if wanted.spec.gpu_idx is None and wanted.spec.replica_config is None:
            # It may have been scaled since: then its workers tell how many there are.
            same = known is not None and known.generation == wanted.generation
            replica = max(name.index + 1, known.replica if known is not None and same else 1)
            wanted = wanted.model_copy(update={"spec": wanted.spec.model_copy(update={"replica": replica})})
        self._fleet.want(wanted)
        self._unsaved["wish", name.uid] = wanted.model_dump(mode="json")
        self._unsaved["number", "generation"] = max(
            wanted.generation, self._unsaved.get(("number", "generation"), await self._store.number("generation"))
        )
        self._tell(name.uid, "WARNING", "The wish was lost with the store and is taken back from its worker.")

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
        self._watched[str(name)] = _Watched(handle)
        self._spawn(str(name), self._await_death(str(name), handle))
        self._tell(name.uid, "WARNING", f"Worker {name} (pid {pid}) on {node_ip} is left as it is")

    async def _await_death(self, name: str, handle: Handle) -> None:
        while name in self._fleet.workers:
            try:
                await handle.control("logs", 1, timeout_s=CONTROL_TIMEOUT_S)
                self._hear(name, E.ANSWERED, "")
            except errors.WorkerLost as lost:
                self._hear(name, E.DIED, str(lost))
                return
            except errors.ClusterError as error:
                log.debug("%s: %s", name, error)
            await asyncio.sleep(self._settings.tick_s)

    async def _tick(self) -> None:
        now = self._clock()
        for warning in self._fleet.see_nodes(await self._platform.nodes(), now):
            log.warning(warning)
        self._see_own_memory()
        for worker in self._fleet.orphaned():
            self._see(str(worker), E.DIED, "its node is gone")
        for worker in self._fleet.expired(now):
            after = self._see(str(worker), E.EXPIRED, f"{worker.state} for {now - worker.since:.0f} s")
            if after.report.pid and after.state == S.LOST:
                # Whoever did not answer a probe may not answer a kill, and would keep its memory.
                self._background(self._platform.end_process(after.node, after.report.pid))
        self._poison = {poison: until for poison, until in self._poison.items() if until > now}
        plan = self._fleet.plan(now)
        await self._act(plan)
        self._publish()
        if self._unsaved and (self._saving is None or self._saving.done()):
            # Beside the tick: a change that waits for the disk comes first.
            self._saving = asyncio.ensure_future(self._save())
        await self._share_cores()
        if self._space is None or self._space.done():
            # Beside the tick: a network's disk may not answer.
            self._space = asyncio.ensure_future(self._look_at_space())

    async def _look_at_space(self) -> None:
        free = self._free_bytes = await self._store.free_bytes()
        was_low, self._is_low_on_space = self._is_low_on_space, free is not None and free < LOW_SPACE_BYTES
        if self._is_low_on_space and not was_low:
            self._tell(
                ITSELF,
                "WARNING",
                f"Only {(free or 0) / 1e6:,.0f} MB are free beside {self._store.place}: once it is full, what runs "
                "goes on and is replaced when it dies, but nothing can be launched, scaled or terminated.",
            )
        elif was_low and not self._is_low_on_space:
            self._tell(ITSELF, "INFO", f"There is room again beside {self._store.place}.")

    async def _act(self, plan: Plan) -> None:
        for worker in plan.drain:
            after = self._see(str(worker), E.DRAIN, "")
            if after.state == S.DRAINING:
                self._tell(worker.name.uid, "INFO", f"Draining worker {worker}")
        # Routed out before it is told to stop taking work.
        self._publish()
        for worker in plan.drain:
            if self._fleet.workers[str(worker)].state == S.DRAINING:
                self._spawn(str(worker), self._order(str(worker), "drain", self._epoch))
            else:
                self._end(worker)
        for worker in plan.forget:
            self._end(worker)
        for start in plan.start:
            node = self._fleet.nodes[start.placement.node]
            self._fleet.started(start.name, start.placement, self._clock())
            why = "" if start.why == "wanted" else f" ({start.why})"
            self._tell(start.name.uid, "INFO", f"Starting worker {start.name} on {node.ip}{why}")
            ignored = split(start.wanted.spec.envs, self._settings.allow_envs)[1]
            if ignored:
                self._tell(start.name.uid, "WARNING", f"envs sets no {', '.join(ignored)}: CLUSTER_ALLOW_ENVS lacks it")
            try:
                handle = await self._platform.start(start.name, start.wanted, start.placement)
            except Exception as error:
                log.exception("%s could not be started", start.name)
                self._see(str(start.name), E.DIED, f"could not be started: {error}")
                continue
            self._watch(start.name, handle)
            threads = self._threads_on(start.placement.node)
            where = (node.id, node.ip)
            self._spawn(str(start.name), self._order(str(start.name), "start", self._epoch, where, threads))

    def _end(self, worker: Worker) -> None:
        watched = self._watched.pop(str(worker), None)
        self._fleet.workers.pop(str(worker), None)
        self._samples.pop(str(worker), None)
        self._threads.pop(str(worker), None)
        if watched is not None:
            watched.handle.kill()
            for task in watched.tasks:
                task.cancel()

    # ------------------------------------------------------------------------------------ watching workers

    def _watch(self, name: WorkerName, handle: Handle) -> None:
        self._watched[str(name)] = _Watched(handle)
        self._spawn(str(name), self._follow(str(name), handle))
        self._spawn(str(name), self._probe(str(name), handle))

    def _spawn(self, name: str, work: Awaitable[None]) -> None:
        watched = self._watched.get(name)
        task = asyncio.ensure_future(work)
        if watched is not None:
            watched.tasks = [old for old in watched.tasks if not old.done()] + [task]

    async def _follow(self, name: str, handle: Handle) -> None:
        """One call is always pending at a worker: it brings every change, and its failure is the death notice."""
        seen = -1
        while name in self._fleet.workers:
            before = self._fleet.workers[name].state
            # A process that is still being started has not had its chance to answer yet.
            patience = self._settings.start_timeout_s if before == S.STARTING else REPORT_WAIT_S + CONTROL_TIMEOUT_S
            try:
                seen, report = await handle.control("report", self._epoch, seen, REPORT_WAIT_S, timeout_s=patience)
            except errors.WorkerLost as lost:
                self._hear(name, E.DIED, str(lost))
                return
            except errors.StaleEpoch:
                log.error("a newer supervisor is in charge; this one stands back")
                return
            except errors.Unavailable:
                self._hear(name, E.SILENT, "does not answer")
                await asyncio.sleep(self._settings.tick_s)
                continue
            if name not in self._fleet.workers or self._fleet.workers[name].state in (S.LOST, S.GONE, S.FAILED):
                return
            self._see_report(name, handle, report)

    def _see_report(self, name: str, handle: Handle, report: Report) -> None:
        before, before_report = self._fleet.workers[name].state, self._fleet.workers[name].report
        after = self._fleet.see_report(name, report, self._clock())
        uid = after.name.uid
        if after.state == S.READY and before != S.READY:
            self._tell(uid, "INFO", f"Worker {name} is READY after {report.load_seconds:.1f} s")
        if after.state == S.FAILED and before != S.FAILED:
            self._tell(uid, "ERROR", f"Worker {name} failed: {after.reason}")
            # Its claim is given back with its state; the process may not outlive that.
            handle.kill()
        # A poll that ended without news brings what was told long ago.
        if report.memory != before_report.memory:
            self._see_memory(after.node, report.memory)
        if replace(report, memory=before_report.memory) != before_report:
            self._wake.set()

    def _see_own_memory(self) -> None:
        """Workers tell of their nodes; this node's memory is known without any."""
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
        self._see(str(worker), E.DIED, reason)

    def _hear(self, name: str, event: WorkerEvent, reason: str) -> None:
        """What came back from a call; the worker may have been dropped while it was under way."""
        worker = self._fleet.workers.get(name)
        if worker is None:
            return
        if event == E.DIED and worker.state != S.LOST:
            self._see_own_memory()
            reason = self._fleet.why_died(worker, reason, self._clock())
        self._see(name, event, reason)

    def _see(self, name: str, event: WorkerEvent, reason: str) -> Worker:
        before = self._fleet.workers[name]
        after = self._fleet.see(name, event, self._clock(), reason)
        if after.state != before.state:
            self._wake.set()
            if after.state in (S.LOST, S.SUSPECT):
                self._tell(after.name.uid, "WARNING", f"Worker {name} is {after.state}: {reason}")
            if after.state == S.SUSPECT and after.name.uid not in self._fleet.unreadable:
                self._background(self._end_if_hung(name))
        return after

    async def suspect(self, name: str) -> None:
        """An ingress hears nothing from this worker, which has work."""
        if name in self._fleet.workers and self._fleet.workers[name].state == S.READY:
            self._see(name, E.SILENT, "an ingress hears nothing from it")

    async def _end_if_hung(self, name: str) -> None:
        """Ends a suspect whose control thread is silent as well: a process that only computes would answer. Where even
        its machine does not answer nothing is known, and the deadline of its state decides."""
        deadline = self._clock() + HUNG_S
        while self._clock() < deadline:
            worker, watched = self._fleet.workers.get(name), self._watched.get(name)
            if worker is None or watched is None or worker.state != S.SUSPECT:
                return
            try:
                await watched.handle.control("report", self._epoch, -1, 0.0, timeout_s=HEAR_S)
                await self._probe_once(name, watched.handle)
                return
            except errors.Unavailable:
                await asyncio.sleep(0.1)
            except errors.ClusterError:
                return
        worker = self._fleet.workers.get(name)
        if worker is None or worker.state != S.SUSPECT or not worker.report.pid:
            return
        if await self._platform.end_process(worker.node, worker.report.pid):
            self._hear(name, E.DIED, f"answered nothing for {HUNG_S:.0f} s and was ended")

    async def _probe(self, name: str, handle: Handle) -> None:
        """A real forward pass now and then; it finds the worker that answers but does not compute."""
        while name in self._fleet.workers:
            suspect = name in self._fleet.workers and self._fleet.workers[name].state == S.SUSPECT
            await asyncio.sleep(self._settings.tick_s if suspect else self._settings.probe_s)
            worker = self._fleet.workers.get(name)
            if worker is None or worker.state not in (S.READY, S.SUSPECT):
                continue
            await self._probe_once(name, handle)

    async def _probe_once(self, name: str, handle: Handle) -> None:
        try:
            await handle.probe(self._settings.probe_timeout_s)
            self._hear(name, E.ANSWERED, "")
        except (errors.WorkerDraining, errors.ModelLoading):
            return
        except errors.WorkerLost as lost:
            self._hear(name, E.DIED, str(lost))
        except errors.ClusterError as error:
            self._hear(name, E.SILENT, f"probe: {error}")

    async def _order(self, name: str, method: str, *args: Any) -> None:
        """A command whose failure needs no answer here: `_follow` hears of a death, a deadline of silence."""
        watched = self._watched.get(name)
        if watched is None:
            return
        try:
            await watched.handle.control(method, *args, timeout_s=self._settings.start_timeout_s)
        except errors.ClusterError as error:
            log.warning("%s %s: %s", name, method, error)

    def _background(self, work: Coroutine[Any, Any, Any]) -> None:
        """Work that belongs to no living worker; a failure is logged and forgotten."""
        task = asyncio.ensure_future(work)
        self._others.add(task)
        task.add_done_callback(self._others.discard)

    def _threads_on(self, node_id: str) -> int:
        """Cores are shared: each worker of a node computes on its share of them."""
        node = self._fleet.nodes.get(node_id)
        sharing = [
            w for w in self._fleet.workers.values() if w.node == node_id and w.state in (S.READY, S.LOADING, S.STARTING)
        ]
        return max(1, int((node.cpus if node else 1) // max(1, len(sharing))))

    async def _share_cores(self) -> None:
        for worker in self._fleet.workers.values():
            if worker.state != S.READY:
                continue
            threads = int(worker.claim.cpus) or self._threads_on(worker.node)
            if self._threads.get(str(worker)) != threads:
                self._threads[str(worker)] = threads
                self._spawn(str(worker), self._order(str(worker), "set_threads", self._epoch, threads))

    # ------------------------------------------------------------------------------------ telling

    def _tell(self, uid: str, level: Literal["INFO", "WARNING", "ERROR"], text: str) -> None:
        log.log(getattr(logging, level), "%s: %s", uid, text)
        self._store.add_event(Event(ts=self._wall_clock(), level=level, uid=uid, text=text))

    def _publish(self) -> None:
        """New routes and statuses to whoever waits for them, when they differ from the last."""
        models = self._fleet.routes()
        routed = {route.worker for model in models.values() for route in model.workers}
        keys, poison = tuple(self._keys.values()), tuple(self._poison)
        last = self._snapshots.value
        if models != last.models or keys != last.keys or poison != last.poison:
            handles = {name: w.handle.remote for name, w in self._watched.items() if name in routed}
            reports = {name: self._fleet.workers[name].report for name in handles}
            sockets = {name: (report.node_id, report.socket) for name, report in reports.items() if report.socket}
            version = self._snapshots.version + 1
            self._snapshots.post(Snapshot(version, models, handles, keys, sockets, self._epoch, poison))
        before = self._statuses.value
        statuses = {}
        for uid, wish in self._fleet.wanted.items():
            status = self._fleet.status(wish)
            old = before.get(uid)
            version = old.version if old else self._snapshots.version
            if old is None or status.model_copy(update={"version": version}) != old:
                version += 1
            statuses[uid] = status.model_copy(update={"version": version})
            if status.state == ModelState.READY:
                self._launched.add((uid, status.generation))
        if statuses != before:
            self._statuses.post(statuses)
        for wish in self._fleet.newly_ready():
            self._unsaved["ready", wish.uid] = wish.model_dump(mode="json")

    async def watch(self, version: int, timeout_s: float) -> Snapshot:
        """The routing table as soon as it is not that version."""
        await self._recovered.wait()
        return (await self._snapshots.newer(version, timeout_s))[1]

    async def poisoned(self, uid: str, fingerprint: str, workers: Sequence[str]) -> None:
        """An ingress knows which call ended these workers: all ingresses refuse it, and others are started at once."""
        self._fleet.excuse(workers)
        # Told for a little less than it is remembered there, or it would be remembered again.
        self._poison[uid, fingerprint] = self._clock() + POISON_S - POISON_TOLD_LESS_S
        while len(self._poison) > MOST_POISON:
            del self._poison[next(iter(self._poison))]
        text = f"A request ended {len(workers)} workers and is refused for {POISON_S:.0f} s (fingerprint {fingerprint})"
        self._tell(uid, "ERROR", text)
        self._publish()
        self._wake.set()

    async def status(self, uid: str, version: int | None = None, wait_s: float = 0.0) -> ModelStatus:
        """What can be told of a model; with a version, as soon as it is not that one."""
        await self._recovered.wait()
        deadline = self._clock() + wait_s
        while True:
            seen, statuses = self._statuses.version, self._statuses.value
            found = statuses.get(uid)
            if found is None:
                raise errors.UnknownUid(f"Model not found in the model list, uid: {uid}", "model_uid")
            left = deadline - self._clock()
            if version is None or found.version != version or left <= 0:
                return found
            await self._statuses.newer(seen, left)

    async def all_statuses(self) -> list[ModelStatus]:
        await self._recovered.wait()
        return list(self._statuses.value.values())

    async def events(self, uid: str) -> list[Event]:
        """What happened to a model, or with no uid to the cluster itself."""
        found = await self._store.events(uid)
        if not found and uid != ITSELF and uid not in self._fleet.wanted:
            raise errors.UnknownUid(f"Nothing is known of a model {uid!r}.", "model_uid")
        return found

    async def logs(self, uid: str, lines: int) -> list[str]:
        if uid not in self._fleet.wanted:
            raise errors.UnknownUid(f"Model not found in the model list, uid: {uid}", "model_uid")
        told: list[str] = []
        for worker in self._fleet.of(uid):
            watched = self._watched.get(str(worker))
            if watched is None or worker.state == S.FAILED:
                told += worker.report.log_tail
                continue
            try:
                told += await watched.handle.control("logs", lines, timeout_s=CONTROL_TIMEOUT_S)
            except errors.ClusterError as error:
                told.append(f"{worker}: {error}")
        return told[-lines:]

    async def nodes(self) -> list[tuple[Node, Claim, int]]:
        """Every node, what is claimed on it, and by how many workers."""
        rows = []
        for node in self._fleet.nodes.values():
            here = [
                w
                for w in self._fleet.workers.values()
                if w.node == node.id and w.state not in (S.LOST, S.GONE, S.FAILED)
            ]
            cards = tuple(card for w in here for card in w.claim.cards)
            claim = Claim(sum(w.claim.memory_bytes for w in here), cards, sum(w.claim.cpus for w in here))
            rows.append((node, claim, len(here)))
        return rows

    async def uptime(self) -> float:
        return self._clock() - self._started

    async def free_bytes(self) -> int | None:
        """What is left on the disk that wishes and events are written to."""
        return self._free_bytes

    # ------------------------------------------------------------------------------------ wishes

    async def launch(self, asked: Wanted, uid_given: bool) -> ModelStatus:
        """Writes the wish down. An equal wish is the same wish; another one under the same uid is refused."""
        await self._recovered.wait()
        return await self._alone(self._launch(asked, uid_given))

    async def _launch(self, asked: Wanted, uid_given: bool) -> ModelStatus:
        uid = asked.uid
        known = self._fleet.wanted.get(uid)
        self._refuse_unreadable(uid)
        if known is not None and asks_the_same(known, asked):
            if self._fleet.state_of(known)[0] != ModelState.FAILED:
                return self._fresh_status(uid)
        elif known is not None:
            if uid_given:
                raise errors.Conflict(
                    f"Model uid {uid} is taken by another launch ({difference(known, asked)}); "
                    "terminate it or choose another model_uid.",
                    "model_uid",
                )
            uid = f"{uid[:91]}-{self._fleet.new_suffix()[:8]}"
        wanted = await self._numbered(asked, uid)
        no_room = self._fleet.could_place(wanted)
        if no_room is not None:
            raise no_room.error()
        await self._wish(wanted, f"Launch model {wanted.entry.name}, {wanted.replica} replica(s)")
        return self._fresh_status(uid)

    def _refuse_unreadable(self, uid: str) -> None:
        if uid in self._fleet.unreadable:
            raise errors.Conflict(f"{uid} cannot be changed. {self._fleet.unreadable[uid]}", "model_uid")

    async def could_launch(self, asked: Wanted) -> str:
        """Why it would not fit now, or an empty string; raises what a launch would end with that finds no weights."""
        await self._recovered.wait()
        placements = self._fleet.placements(asked)
        if isinstance(placements, NoRoom):
            return str(placements)
        if asked.source.hub == "local":
            nodes = list(dict.fromkeys(placement.node for placement in placements))[:MOST_LOOKS]
            await asyncio.gather(*(self._platform.look_for(node, asked.source) for node in nodes))
        return ""

    async def terminate(self, uid: str) -> None:
        await self._recovered.wait()
        await self._alone(self._terminate(uid))

    async def _terminate(self, uid: str) -> None:
        if self._fleet.wanted.get(uid) is None:
            raise errors.UnknownUid(f"Model not found in the model list, uid: {uid}", "model_uid")
        await self._unwish(uid, "Terminate model")
        self._publish()

    async def cancel(self, uid: str) -> None:
        """Ends a launch that is not READY yet."""
        await self._recovered.wait()
        await self._alone(self._cancel(uid))

    async def _cancel(self, uid: str) -> None:
        status = await self.status(uid)
        if (uid, status.generation) in self._launched:
            raise errors.Conflict(f"Model {uid} is not launching any more, it is {status.state}; terminate it instead.")
        await self._unwish(uid, "Launch cancelled")
        self._publish()

    async def scale(self, uid: str, replica: int) -> ModelStatus:
        await self._recovered.wait()
        return await self._alone(self._scale(uid, replica))

    async def _scale(self, uid: str, replica: int) -> ModelStatus:
        known = self._fleet.wanted.get(uid)
        if known is None:
            raise errors.UnknownUid(f"Model not found in the model list, uid: {uid}", "model_uid")
        self._refuse_unreadable(uid)
        if replica < 1:
            raise errors.BadOption(f"replica must be at least 1, not {replica}; terminate {uid} to stop it.", "replica")
        if known.spec.gpu_idx is not None or known.spec.replica_config is not None:
            raise errors.BadRequest(f"{uid} is pinned to cards; launch it again with the places it should have.")
        wanted = known.model_copy(update={"spec": known.spec.model_copy(update={"replica": replica})})
        no_room = self._fleet.could_place(wanted) if replica > known.replica else None
        if no_room is not None:
            raise no_room.error()
        await self._wish(wanted, f"Scale from {known.replica} to {replica} replica(s)")
        return self._fresh_status(uid)

    async def apply(self, declared: Sequence[Wanted], prune: bool, dry_run: bool) -> list[Change]:
        """Makes the wishes equal to a declared list; only what an earlier list declared is ever removed."""
        await self._recovered.wait()
        return await self._alone(self._apply(declared, prune, dry_run))

    async def _apply(self, declared: Sequence[Wanted], prune: bool, dry_run: bool) -> list[Change]:
        changes = differences(self._fleet.wanted, declared, prune)
        if not dry_run:
            for change in changes:
                await self._carry_out(change)
            self._publish()
        return changes

    async def _carry_out(self, change: Change) -> None:
        after = change.after
        is_unreadable = change.uid in self._fleet.unreadable
        if change.change == "terminate":
            await self._unwish(change.uid, "Terminate model: no longer declared")
        elif is_unreadable and change.change == "same":
            return
        elif is_unreadable and after is not None:
            # A version for which it is declared otherwise takes the place of what runs, once it is READY.
            wanted = (await self._numbered(after, change.uid)).model_copy(update={"declared": True})
            await self._wish(wanted, "Update model: declared")
        elif after is not None and change.change == "scale" and change.before is not None:
            await self._wish(change.before.model_copy(update={"spec": after.spec, "declared": True}), "Scale: declared")
        elif change.change == "same" and change.before is not None:
            if not change.before.declared:
                await self._wish(change.before.model_copy(update={"declared": True}), "Declared as it is")
        elif after is not None:
            wanted = (await self._numbered(after, change.uid)).model_copy(update={"declared": True})
            await self._wish(wanted, f"{change.change.capitalize()} model: declared")

    async def _numbered(self, asked: Wanted, uid: str) -> Wanted:
        highest = max((wish.generation for wish in self._fleet.wanted.values()), default=0)
        generation = await self._store.next_number("generation", highest + 1)
        return asked.model_copy(update={"uid": uid, "generation": generation, "created": self._wall_clock()})

    async def _wish(self, wanted: Wanted, text: str) -> None:
        await self._store.put("wish", wanted.uid, wanted.model_dump(mode="json"))
        self._unsaved.pop(("wish", wanted.uid), None)
        self._fleet.want(wanted)
        self._tell(wanted.uid, "INFO", text)
        self._publish()
        self._wake.set()

    async def _unwish(self, uid: str, text: str) -> None:
        await self._store.delete("wish", uid, "ready")
        for kind in KINDS_OF_A_MODEL:
            self._unsaved.pop((kind, uid), None)
        self._fleet.unwant(uid)
        self._tell(uid, "INFO", text)
        self._wake.set()

    def _fresh_status(self, uid: str) -> ModelStatus:
        return self._statuses.value[uid]

    # ------------------------------------------------------------------------------------ registrations, keys

    async def registered(self) -> list[Entry]:
        return list(self._readable("entry", await self._store.all("entry"), Entry).values())

    async def register(self, entry: Entry) -> None:
        await self._store.put("entry", f"{entry.type}/{entry.name}", entry.model_dump(mode="json"))

    async def unregister(self, type: str, name: str) -> None:
        if not await self._store.delete("entry", f"{type}/{name}"):
            raise errors.UnknownModel(f"Model {name} not found among the registered {type} models.", "model_name")

    async def create_key(self, name: str, scopes: Iterable[str], models: Iterable[str] | None) -> tuple[Key, str]:
        key, text = new_key(name, scopes, models)
        await self._alone(self._keep_key(key))
        return key, text

    async def _keep_key(self, key: Key) -> None:
        await self._store.put("key", key.id, key.model_dump(mode="json"))
        self._keys[key.id] = key
        self._publish()

    async def all_keys(self) -> list[Key]:
        return list(self._keys.values())

    async def revoke_key(self, id: str) -> None:
        await self._alone(self._revoke_key(id))

    async def _revoke_key(self, id: str) -> None:
        if not await self._store.delete("key", id):
            raise errors.BadRequest(f"There is no key with the id {id!r}; `cluster keys list` shows them.", "id")
        del self._keys[id]
        self._publish()

    # ------------------------------------------------------------------------------------ metrics

    async def samples(self, ingress: str, theirs: metrics.Samples) -> metrics.Samples:
        """Takes what one ingress counted; gives what everybody counted."""
        self._samples[ingress] = theirs
        await asyncio.gather(*(self._sample(name, w.handle) for name, w in list(self._watched.items())))
        return [family for families in self._samples.values() for family in families] + samples_of(
            self._fleet, self._clock() - self._started, self._free_bytes
        )

    async def _sample(self, name: str, handle: Handle) -> None:
        worker = self._fleet.workers.get(name)
        if worker is None or worker.state not in (S.READY, S.DRAINING):
            return
        try:
            self._samples[name] = await handle.control("samples", timeout_s=2.0)
        except errors.ClusterError:
            return
