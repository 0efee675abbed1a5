"""Starts, finds and ends workers through Ray, for the supervisor."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import errors
from cluster.catalog.entry import Source
from cluster.control.placement import Placement
from cluster.control.platform import Handle, Lease, Weighed
from cluster.joining import Versions
from cluster.launch import Wanted
from cluster.node_labels import VERSION_LABEL
from cluster.runtime import forkserver, node_memory
from cluster.runtime.actor_calls import HEAD_RESOURCE, SUPERVISOR, answer_of
from cluster.runtime.card_leases import CardLeases
from cluster.runtime.card_watch import CardWatch, resource_of
from cluster.runtime.forkserver import UNFORKED, ForkServer
from cluster.runtime.node_cards import UNKNOWN_CARDS, DriverReading, cards_of_node
from cluster.runtime.place import settings_here
from cluster.runtime.worker_actor import remote_worker
from cluster.settings import Settings
from cluster.status import Claim, Memory, Node, Report, WorkerName
from cluster.weights.inventory import asking_once
from cluster.weights.locate import locate
from cluster.worker.planning import plan_of, weighed
from cluster.worker.preload import Preload
from cluster.worker.worker import Worker

log = logging.getLogger("cluster.platform")
Arguments = ParamSpec("Arguments")
T = TypeVar("T")

#: Longest that a dry run waits for a node to look for a folder.
LOOK_S = 10.0


class RayHandle(Handle):
    """A worker actor, called from the supervisor."""

    def __init__(self, actor: Any) -> None:
        self.remote = actor

    async def describe(self, *, timeout_s: float) -> tuple[Wanted, Claim, Report]:
        return await self._control(timeout_s, Worker.describe)

    async def start(self, epoch: int, where: tuple[str, str], threads: int, *, timeout_s: float) -> None:
        await self._control(timeout_s, Worker.start, epoch, where, threads)

    async def report(self, epoch: int, version: int, wait_s: float, *, timeout_s: float) -> tuple[int, Report]:
        return await self._control(timeout_s, Worker.report, epoch, version, wait_s)

    async def set_threads(self, epoch: int, threads: int, *, timeout_s: float) -> None:
        await self._control(timeout_s, Worker.set_threads, epoch, threads)

    async def drain(self, epoch: int, *, timeout_s: float) -> None:
        await self._control(timeout_s, Worker.drain, epoch)

    async def doze(self, epoch: int, *, timeout_s: float) -> None:
        try:
            await self._control(timeout_s, Worker.doze, epoch)
        except AttributeError:
            # Of an earlier version: it is ended when its time to doze is over, and its model sleeps.
            raise errors.Unavailable("It cannot doze.") from None

    async def logs(self, lines: int, *, timeout_s: float) -> list[str]:
        return await self._control(timeout_s, Worker.logs, lines)

    async def _control(
        self,
        timeout_s: float,
        method: Callable[Concatenate[Worker, Arguments], Awaitable[T]],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> T:
        """Control calls have a thread of their own: a worker busy with inference answers them."""
        # Ray knows an actor's methods by their names only.
        call = getattr(self.remote, method.__name__).options(concurrency_group="control")
        answer: T = await answer_of(call.remote(*args, **kwargs), timeout_s)
        return answer

    async def probe(self, timeout_s: float) -> float:
        return float(await answer_of(self.remote.probe.remote(), timeout_s))

    async def overdue(self, timeout_s: float) -> Sequence[str]:
        return list(await answer_of(self.remote.overdue.remote(), timeout_s))

    async def whereabouts(self) -> tuple[str, str, int]:
        facts = await asyncio.to_thread(ray._private.state.actors, self.remote._actor_id.hex())
        address = facts.get("Address") or {}
        if facts.get("State") != "ALIVE" or not address.get("NodeID"):
            raise errors.WorkerLost("Ray does not know where it is.")
        return str(address["NodeID"]), str(address["IPAddress"]), int(facts.get("Pid") or 0)

    def kill(self) -> None:
        ray.kill(self.remote, no_restart=True)


class RayPlatform:
    """Starts, finds and ends workers through Ray, for the supervisor."""

    def __init__(self, settings: Settings, preload: Preload) -> None:
        """`preload`: modules that the families import, for the processes that workers are forked from."""
        self._settings = settings
        self._cards = CardWatch(cards_of_node, partial(DriverReading, settings))
        self._leases = CardLeases()
        self._forkserver = ForkServer(preload)

    async def nodes(self) -> list[Node]:
        rows = [row for row in await asyncio.to_thread(ray.nodes) if row["Alive"]]
        self._leases.look({row["NodeID"]: (row["NodeManagerAddress"], resource_of(row)) for row in rows})
        await self._cards.look_at(rows)
        # A node that comes later is used once its cards are known; no tick waits for that.
        rows = [row for row in rows if self._cards.of(row["NodeID"]) is not None]
        leaving = await asyncio.to_thread(_leaving_nodes)
        return [self._node(row, row["NodeID"] in leaving) for row in rows]

    def _node(self, row: Mapping[str, Any], draining: bool) -> Node:
        resources, labels = row["Resources"], row.get("Labels") or {}
        cards = self._cards.of(row["NodeID"]) or UNKNOWN_CARDS
        return Node(
            id=row["NodeID"],
            ip=row["NodeManagerAddress"],
            cpus=resources.get("CPU", 0.0),
            memory_bytes=int(resources.get("memory", 0)),
            gpus=int(resources.get(resource_of(row), 0)),
            card_bytes=cards.bytes,
            usable_gpus=cards.usable,
            cards=self._cards.full(row["NodeID"]),
            is_unread=self._cards.is_unread(row["NodeID"]),
            is_head=HEAD_RESOURCE in resources,
            draining=draining,
            name=row.get("NodeName") or row["NodeManagerAddress"],
            labels=tuple(sorted(item for item in labels.items() if "/" not in item[0] and item[0] != VERSION_LABEL)),
            # Ray's labels are those of its start; the supervisor is always of the head's version.
            version=Versions.here().cluster if HEAD_RESOURCE in resources else labels.get(VERSION_LABEL, ""),
        )

    def _forks(self, wanted: Wanted, claim: Claim) -> bool:
        return self._forkserver.is_used and not claim.cards and not wanted.spec.envs

    async def may_start(self, wanted: Wanted, placement: Placement) -> bool:
        # Only the head has a fork server: workers elsewhere would wait for nothing.
        is_here = placement.node == ray.get_runtime_context().get_node_id()
        if not is_here or not self._forks(wanted, placement.claim):
            return True
        return await asyncio.to_thread(self._forkserver.may_fork, wanted.family, time.monotonic())

    async def start(self, name: WorkerName, wanted: Wanted, placement: Placement) -> RayHandle:
        claim = placement.claim
        there = self._cards.of(placement.node) or UNKNOWN_CARDS
        cards = [there.names[card] if card < len(there.names) else str(card) for card, _ in claim.cards]
        # If torch cannot use a card that was chosen by number, loading the model fails and says so.
        device = "cuda" if there.usable == 0 else there.device
        options: dict[str, Any] = {
            "name": str(name),
            "namespace": self._settings.namespace,
            "lifetime": "detached",
            "num_cpus": claim.cpus,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(placement.node, soft=False),
        }
        if self._forks(wanted, claim):
            if socket := await asyncio.to_thread(self._forkserver.ensure, wanted.family):
                options["runtime_env"] = {"env_vars": {forkserver.PATH: socket}}
        elif self._forkserver.is_used:
            options["runtime_env"] = {"env_vars": UNFORKED}
        make = remote_worker.options(**options).remote
        of_node = self._cards.full(placement.node)
        uuids = [of_node[card].uuid if card < len(of_node) else "" for card, _ in claim.cards]
        return RayHandle(await asyncio.to_thread(make, str(name), wanted, claim, self._settings, cards, device, uuids))

    def keep_leases(self, leases: Mapping[str, Lease]) -> None:
        self._leases.want(leases)

    async def find(self) -> dict[WorkerName, RayHandle]:
        rows = await asyncio.to_thread(ray.util.list_named_actors, all_namespaces=True)
        names = [row["name"] for row in rows if row["namespace"] == self._settings.namespace]
        handles: dict[WorkerName, RayHandle] = {}
        for name in filter(None, map(WorkerName.parse, names)):
            try:
                actor = await asyncio.to_thread(ray.get_actor, str(name), self._settings.namespace)
            except ValueError:
                continue  # it died between the two calls
            handles[name] = RayHandle(actor)
        return handles

    async def stand_back(self) -> None:
        try:
            named = await asyncio.to_thread(ray.get_actor, SUPERVISOR, self._settings.namespace)
        except ValueError:
            return
        if named._actor_id.hex() == ray.get_runtime_context().get_actor_id():
            # Ray starts it again. It cannot go on as it is: what the other one has changed meanwhile is unknown here.
            os._exit(1)

    def memory(self) -> tuple[str, Memory]:
        return ray.get_runtime_context().get_node_id(), node_memory.read()

    async def look_for(self, node_id: str, source: Source) -> None:
        if source.hub not in ("local", "package") and not self._settings.offline:
            return  # a worker fetches them
        try:
            if node_id == ray.get_runtime_context().get_node_id():
                async with asyncio.timeout(LOOK_S):
                    return await asyncio.to_thread(_look_for, source, self._settings)
            where = NodeAffinitySchedulingStrategy(node_id, soft=False)
            await answer_of(_look_there.options(scheduling_strategy=where).remote(source, self._settings), LOOK_S)
        except (errors.Unavailable, errors.WorkerLost, TimeoutError) as error:
            log.warning("node %s could not look for %s: %s", node_id, source.id, error)

    async def weigh(self, node_id: str, wanted: Wanted) -> Weighed:
        where = NodeAffinitySchedulingStrategy(node_id, soft=False)
        try:
            work = _weigh_there.options(scheduling_strategy=where).remote(wanted, self._settings)
            there: Weighed = await answer_of(work, LOOK_S)
            return there
        except (errors.Unavailable, errors.WorkerLost, TimeoutError) as error:
            log.warning("node %s could not look for %s: %s", node_id, wanted.source.id, error)
            return Weighed(wanted)

    async def end_process(self, node_id: str, pid: int) -> bool:
        if node_id == ray.get_runtime_context().get_node_id():
            # At once, and without a new process, for which there may be no memory.
            return _end_worker(pid)
        where = NodeAffinitySchedulingStrategy(node_id, soft=False)
        try:
            return bool(await answer_of(_end_there.options(scheduling_strategy=where).remote(pid), 30.0))
        except errors.ClusterError as error:
            log.warning("process %d on node %s could not be ended: %s", pid, node_id, error)
            return False


def _leaving_nodes() -> Collection[str]:
    """Nodes that Ray has been told will go; nothing new is placed there."""
    try:
        return frozenset(ray._private.state.state.get_draining_nodes())
    # Ray tells it nowhere else, and promises nothing of this.
    except Exception as error:
        log.debug("Ray does not say which nodes leave: %s", error)
        return frozenset()


def _look_for(source: Source, settings: Settings) -> None:
    """Raises what a worker would that loads from there, as far as no hub has to be asked."""
    if source.hub == "local":
        locate(source, home=settings.home, allow_pickle=settings.allow_pickle, roots=settings.model_roots)
    else:
        # What the catalogue names may be a pickle; a worker knows which.
        locate(source, home=settings.home, offline=True, allow_pickle=True)


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def _weigh_there(wanted: Wanted, settings: Settings) -> Weighed:
    settings = settings_here(settings)
    with asking_once():
        wanted = weighed(wanted, settings)
        plans = (plan_of(wanted, settings, on_card=kind) for kind in (False, True))
        return Weighed(wanted, *plans)


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def _look_there(source: Source, settings: Settings) -> None:
    _look_for(source, settings_here(settings))


def _end_worker(pid: int) -> bool:
    """Kills a worker's process, unless another process has got its number meanwhile."""
    try:
        process = psutil.Process(pid)
        if any("WorkerActor" in word for word in process.cmdline()):
            process.kill()
    except psutil.NoSuchProcess:
        pass
    return True


_end_there = ray.remote(num_cpus=0, max_retries=0)(_end_worker)
