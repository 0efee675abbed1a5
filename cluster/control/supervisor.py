"""The supervisor: compares what is wanted with what runs, again and again, and carries out the difference.

Knows nothing of Ray: a `Platform` starts, finds and ends workers. Every tick is observe, step, reconcile, act; acting
may fail anywhere, because the next tick starts from observation again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from cluster import errors
from cluster.catalog.entry import Entry
from cluster.control.changes import Change
from cluster.control.closed_nodes import Closed, ClosedNodes, NodeMark
from cluster.control.executing import PlanExecutor
from cluster.control.fitting import Fit
from cluster.control.fleet import Fleet
from cluster.control.growing import CardsWanted, cards_wanted
from cluster.control.lifecycle import WorkerEvent
from cluster.control.orders import Orders
from cluster.control.platform import Handle, Platform
from cluster.control.publishing import Publisher
from cluster.control.records import DiskWatch, Records
from cluster.control.recovery import Recovery
from cluster.control.registered import KeyRing, Registrations
from cluster.control.sampling import Sampling
from cluster.control.scaling import Bounds
from cluster.control.sleeping import Sleeping
from cluster.control.store import ITSELF, Store
from cluster.control.trying import Trying
from cluster.control.views import leases_of, usage_of
from cluster.control.wanted_models import WantedModels
from cluster.control.watching import Watch
from cluster.keys import Key
from cluster.launch import Wanted
from cluster.routes import Amendment, Snapshot
from cluster.settings import Settings
from cluster.status import (
    Claim,
    Event,
    EventQuery,
    ModelStatus,
    Node,
    ScaleNumbers,
    StatusNews,
    WorkerName,
    WorkerState,
)
from cluster.suspicion import POISON_S
from cluster.tally import CanaryTally

log = logging.getLogger("cluster.control.supervisor")
E = WorkerEvent
S = WorkerState
#: A tick that takes longer than this waits for something that does not come.
TICK_TIMEOUT_S = 60.0
#: The shortest pause between two ticks.
TICK_PAUSE_S = 0.01


class Supervisor:
    """Owns the loop, and answers the calls of other processes; what it does with them is in the parts it is made of."""

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
        """Reads the store before the loop begins. `is_salvaged`: models are missing from it that nobody terminated."""
        self._platform, self._settings = platform, settings
        self._clock, self._wall_clock = clock, wall_clock
        self._started = clock()
        #: Begins the next tick at once.
        self._wake = asyncio.Event()
        #: Set after the first tick; nobody is told anything before.
        self._recovered = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._fleet = Fleet(settings, new_suffix)
        self._records = Records(store, wall_clock)
        self._disk = DiskWatch(self._records)
        keys = self._records.validated("key", store.all("key"), Key)
        self._watch = Watch(self._fleet, platform, settings, self._records, clock, self._wake)
        self._orders = Orders(self._fleet, self._watch, self._records, settings)
        self._publisher = Publisher(self._fleet, self._watch, self._records, keys, clock)
        self._executor = PlanExecutor(
            self._fleet, platform, self._watch, self._orders, self._publisher, self._records, clock, wall_clock
        )
        self._recovery = Recovery(self._fleet, self._watch, self._records, settings, clock, is_salvaged)
        self._models = WantedModels(
            self._fleet, platform, self._records, self._publisher, clock, wall_clock, self._wake
        )
        self._sleeping = Sleeping(self._fleet, self._records, self._publisher, clock, self._wake)
        self._trying = Trying(self._fleet, self._records, self._publisher, self._wake)
        self._registrations = Registrations(self._records)
        self._keys = KeyRing(self._records, keys, self._publisher.publish)
        closed = self._records.validated("node", store.all("node"), Closed)
        self._closed = ClosedNodes(self._records, closed, self._wake.set)
        self._sampling = Sampling(self._fleet, self._publisher)

    # ------------------------------------------------------------------------------------ the loop

    def begin(self) -> None:
        """Starts the loop, once; must be called on the event loop that serves the other calls."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="supervisor")

    async def stop(self) -> None:
        """Ends the loop and leaves the workers to the next supervisor."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._watch.stop()
        await self._trying.stop()
        await self._disk.stop()
        await self._records.stop()

    async def _run(self) -> None:
        await self._recover()
        while not self._watch.is_superseded:
            self._wake.clear()
            began = time.perf_counter()
            try:
                # Ray may never answer a question; the next tick asks anew.
                async with asyncio.timeout(TICK_TIMEOUT_S):
                    await self._tick()
            # One bad tick must not end all later ones; the next begins with observation.
            except Exception:
                log.exception("a tick failed")
            self._recovered.set()
            # What is heard meanwhile is dealt with by one tick, and ticks leave half of the time to everything else.
            await asyncio.sleep(max(TICK_PAUSE_S, time.perf_counter() - began))
            try:
                # Not wait_for: it can swallow the cancellation that ends this loop.
                async with asyncio.timeout(self._settings.tick_s):
                    await self._wake.wait()
            except TimeoutError:
                pass
        await self._stand_back()

    async def _stand_back(self) -> None:
        """A newer supervisor looks after the workers: two that plan would start and end workers against each other."""
        log.error("a newer supervisor is in charge; this one stands back")
        await self._watch.stop()
        while True:
            try:
                return await self._platform.stand_back()
            # Whatever keeps the platform from answering, this one must not go on meanwhile.
            except Exception:
                log.exception("the platform does not say which supervisor is in charge; trying again")
                await asyncio.sleep(self._settings.tick_s)

    async def _recover(self) -> None:
        """Nothing is planned before every live worker has spoken."""
        await self._recovery.read_wanted()
        while True:
            try:
                self._fleet.see_nodes(self._closed.shown(await self._platform.nodes()), self._clock())
                handles: Mapping[WorkerName, Handle] = await self._platform.find()
                break
            # Whatever keeps the platform from answering, there is nothing to be done without it.
            except Exception:
                log.exception("the platform does not answer; trying again")
                await asyncio.sleep(self._settings.tick_s)
        await self._recovery.adopt(handles)

    async def _tick(self) -> None:
        now = self._clock()
        for warning in self._fleet.see_nodes(self._closed.shown(await self._platform.nodes()), now):
            log.warning(warning)
        self._watch.see_own_memory()
        for worker in self._fleet.orphaned():
            self._watch.see(str(worker), E.DIED, "its node is gone")
        self._watch.see_expired(now)
        self._publisher.drop_old_poison(now)
        self._models.follow_load(now)
        self._trying.decide(now)
        await self._executor.carry_out(self._sleeping.plan(now))
        if self._fleet.workers.cards_changed:
            self._fleet.workers.cards_changed = False
            self._platform.keep_leases(leases_of(self._fleet))
        self._publisher.publish()
        self._records.save()
        self._orders.share_cores()
        self._disk.look()

    # ------------------------------------------------------------------------------------ calls of ingresses

    async def watch(self, version: int, timeout_s: float) -> Snapshot:
        await self._recovered.wait()
        return await self._publisher.watch(version, timeout_s)

    async def changes(self, version: int, timeout_s: float) -> Snapshot | Amendment:
        await self._recovered.wait()
        return await self._publisher.changes(version, timeout_s)

    async def status_news(self, version: int, timeout_s: float) -> StatusNews:
        await self._recovered.wait()
        return await self._publisher.status_news(version, timeout_s)

    async def suspect(self, name: str) -> None:
        self._watch.suspect(name)

    async def poisoned(self, uid: str, fingerprint: str, workers: Sequence[str]) -> None:
        """An ingress knows which call ended these workers: all ingresses refuse it, and others are started at once."""
        self._fleet.excuse(workers)
        self._watch.end_overdue(workers)
        self._publisher.add_poison(uid, fingerprint)
        text = f"A request ended {len(workers)} workers and is refused for {POISON_S:.0f} s (fingerprint {fingerprint})"
        self._records.tell(uid, "ERROR", text)
        self._publisher.publish()
        self._wake.set()

    async def tallied(self, ingress: str, tallies: Sequence[CanaryTally]) -> None:
        self._trying.hear(ingress, tallies)

    async def metrics(self, ingress: str, own: bytes) -> list[bytes]:
        return await self._sampling.collect(ingress, own, await self.uptime(), self._disk.free_bytes)

    # ------------------------------------------------------------------------------------ calls of people

    async def _open_models(self) -> WantedModels:
        """Once what runs is known."""
        await self._recovered.wait()
        return self._models

    async def launch(self, wanted: Wanted, uid_given: bool, disk: str = "", /) -> ModelStatus:
        return await (await self._open_models()).launch(wanted, uid_given, disk)

    async def could_launch(self, wanted: Wanted, disk: str = "", /) -> Fit:
        return await (await self._open_models()).could_launch(wanted, disk)

    async def would_fit(self, variants: Sequence[Wanted], /) -> list[Fit]:
        return (await self._open_models()).would_fit(variants)

    async def terminate(self, uid: str) -> None:
        await (await self._open_models()).terminate(uid)

    async def cancel(self, uid: str) -> None:
        await (await self._open_models()).cancel(uid)

    async def doze(self, uid: str) -> ModelStatus:
        await self._recovered.wait()
        return await self._sleeping.doze(uid)

    async def sleep(self, uid: str) -> ModelStatus:
        await self._recovered.wait()
        return await self._sleeping.sleep(uid)

    async def wake(self, uid: str) -> ModelStatus:
        await self._recovered.wait()
        return await self._sleeping.wake(uid)

    async def keep(self, uid: str, sleep_s: float) -> None:
        await self._recovered.wait()
        await self._sleeping.keep(uid, sleep_s)

    async def left_s(self) -> dict[str, float | None]:
        await self._recovered.wait()
        return self._sleeping.left_s()

    async def scale(self, uid: str, replica: int | None, bounds: Bounds | None = None) -> ModelStatus:
        return await (await self._open_models()).scale(uid, replica, bounds or {})

    async def scale_of(self, uid: str) -> ScaleNumbers:
        return (await self._open_models()).scale_of(uid)

    async def restart(self, uid: str, why: str) -> ModelStatus:
        return await (await self._open_models()).restart(uid, why)

    async def apply(self, declared: Sequence[Wanted], prune: bool, dry_run: bool) -> list[Change]:
        return await (await self._open_models()).apply(declared, prune, dry_run)

    async def status(self, uid: str, version: int | None = None, wait_s: float = 0.0) -> ModelStatus:
        await self._recovered.wait()
        return await self._publisher.status(uid, version, wait_s)

    async def all_statuses(self) -> list[ModelStatus]:
        await self._recovered.wait()
        return list(self._publisher.statuses.value.values())

    async def cards_wanted(self) -> list[CardsWanted]:
        await self._recovered.wait()
        self._models.expect_nodes()
        return cards_wanted(self._fleet)

    async def sent_statuses(self) -> list[bytes]:
        await self._recovered.wait()
        return self._publisher.sent_statuses()

    async def events(self, uid: str) -> list[Event]:
        """What happened to a model, or with no uid to the cluster itself."""
        events = await self._records.events(uid)
        if not events and uid != ITSELF and uid not in self._fleet.wanted:
            raise errors.UnknownUid(f"Nothing is known of a model {uid!r}.", "model_uid")
        return events

    async def recent_events(self, query: EventQuery) -> list[Event]:
        return await self._records.recent_events(query)

    async def logs(self, uid: str, lines: int) -> list[str]:
        logs = await self._watch.logs(uid, lines)
        said = [[f"{name}: {its}"] if isinstance(its, errors.ClusterError) else its for name, its in logs.items()]
        return [line for its in said for line in its][-lines:]

    async def worker_logs(self, uid: str, lines: int) -> dict[str, list[str]]:
        """None of a worker that does not answer: it did not write the reason."""
        logs = await self._watch.logs(uid, lines)
        return {name: [] if isinstance(its, errors.ClusterError) else its for name, its in logs.items()}

    async def nodes(self) -> list[tuple[Node, Claim, int]]:
        return usage_of(self._fleet)

    async def mark_node(self, node: str, mark: NodeMark) -> Node:
        await self._recovered.wait()
        return await self._closed.mark(self._fleet.nodes.values(), node, mark)

    async def uptime(self) -> float:
        return self._clock() - self._started

    async def free_bytes(self) -> int | None:
        return self._disk.free_bytes

    async def registered(self) -> list[Entry]:
        return await self._registrations.all()

    async def register(self, entry: Entry) -> None:
        await self._registrations.add(entry)

    async def unregister(self, type: str, name: str) -> None:
        await self._registrations.remove(type, name)

    async def create_key(self, name: str, scopes: Iterable[str], models: Iterable[str] | None) -> tuple[Key, str]:
        return await self._keys.create(name, scopes, models)

    async def all_keys(self) -> list[Key]:
        return self._keys.all()

    async def log_in(self, key_id: str) -> tuple[Key, str]:
        return await self._keys.log_in(key_id)

    async def log_out(self, digest: str) -> None:
        await self._keys.log_out(digest)

    async def revoke_key(self, id: str) -> None:
        await self._keys.revoke(id)
