"""Carries out plans: routes out, lets workers finish or rest, ends them, starts others."""

from __future__ import annotations

import logging
from collections.abc import Callable

from cluster.control.fleet import Fleet
from cluster.control.lifecycle import WorkerEvent, WorkerRecord
from cluster.control.orders import Orders
from cluster.control.platform import Handle, Platform
from cluster.control.publishing import Publisher
from cluster.control.reconcile import FleetPlan, Start
from cluster.control.records import Records
from cluster.control.watching import Watch
from cluster.environment import split
from cluster.status import WorkerState

log = logging.getLogger("cluster.control.supervisor")
E = WorkerEvent
S = WorkerState


class PlanExecutor:
    def __init__(
        self,
        fleet: Fleet,
        platform: Platform,
        watch: Watch,
        orders: Orders,
        publisher: Publisher,
        records: Records,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._platform = platform
        self._watch = watch
        self._orders = orders
        self._publisher = publisher
        self._records = records
        self._clock = clock
        self._wall_clock = wall_clock

    async def carry_out(self, plan: FleetPlan) -> None:
        for worker in plan.drain:
            after = self._watch.see(str(worker), E.DRAIN, "")
            if after.state == S.DRAINING:
                self._records.tell(worker.name.uid, "INFO", f"Draining worker {worker}")
        for worker in plan.doze:
            self._watch.see(str(worker), E.DOZE, "")
        # Routed out before it is told to stop taking work.
        self._publisher.publish()
        for worker in plan.drain:
            if self._fleet.workers[str(worker)].state == S.DRAINING:
                self._orders.drain(worker)
            else:
                self._end(worker)
        for worker in plan.doze:
            self._orders.doze(worker)
        for worker in plan.forget:
            self._end(worker)
        for worker in plan.rouse:
            self._watch.see(str(worker), E.ROUSE, "")
            self._orders.rouse(worker)
        # What may not start yet is in the plan of the next tick again.
        for start in [each for each in plan.start if await self._platform.may_start(each.wanted, each.placement)]:
            await self._start(start)

    def _end(self, worker: WorkerRecord) -> None:
        self._watch.end(worker)
        self._orders.forget(str(worker))

    async def _start(self, start: Start) -> None:
        name, uid = start.name, start.name.uid
        node = self._fleet.nodes[start.placement.node]
        self._fleet.started(name, start.placement, self._clock(), self._wall_clock())
        why = "" if start.why == "wanted" else f" ({start.why})"
        self._records.tell(uid, "INFO", f"Starting worker {name} on {node.ip}{why}")
        if ignored := split(start.wanted.spec.envs, self._fleet.settings.allow_envs)[1]:
            self._records.tell(uid, "WARNING", f"envs sets no {', '.join(ignored)}: CLUSTER_ALLOW_ENVS lacks it")
        try:
            handle: Handle = await self._platform.start(name, start.wanted, start.placement)
        # Whatever the platform raises, the others are started all the same, and this one again later.
        except Exception as error:
            log.exception("%s could not be started", name)
            self._watch.see(str(name), E.DIED, f"could not be started: {error}")
            return
        self._watch.begin(name, handle)
        self._orders.start(name, node)
