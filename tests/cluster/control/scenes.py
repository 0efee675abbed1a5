"""What tests of the supervisor share: a supervisor, and a platform whose nodes and workers exist only as objects."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from cluster import errors
from cluster.catalog.entry import Source
from cluster.control.changes import Change
from cluster.control.placement import Placement
from cluster.control.platform import Lease, Weighed
from cluster.control.sqlite_store import SqliteStore
from cluster.control.supervisor import Supervisor
from cluster.launch import Needs, Wanted
from cluster.settings import Settings
from cluster.status import Claim, LoadProgress, Memory, ModelState, ModelStatus, Node, Report, WorkerName, WorkerState
from cluster.versioned import Versioned
from tests.make import make_node, make_wanted

M = ModelState
S = WorkerState
PATIENCE_S = 5.0


class Process:
    """A simulated worker. It loads at once, unless the world delays that, and fails as the test tells it to."""

    def __init__(self, name: WorkerName, wanted: Wanted, claim: Claim, world: World) -> None:
        self.name, self.wanted, self.claim, self.world = name, wanted, claim, world
        self.remote = f"actor of {name}"
        self.pid = next(world.pids)
        self.board = Versioned(Report(pid=self.pid))
        self.epoch = 0
        self.alive = True
        self.answers = world.answers
        self.computes = True
        self.fails_its_example = False
        self.probes = 0
        #: Calls that it computes for longer than is usual.
        self.late: list[str] = []
        self.in_hand = 0
        self.threads = 0
        self.commands: list[str] = []
        self.describe_error: Exception | None = None
        self._ended = asyncio.Event()

    async def _hear(self, command: str, epoch: int | None = None) -> None:
        self.commands.append(command)
        await self._reach(self.answers)
        if epoch is None:
            return
        if epoch < self.epoch:
            raise errors.StaleEpoch(f"{self.name} obeys epoch {self.epoch}, not {epoch}.")
        self.epoch = epoch

    async def _reach(self, answers: bool) -> None:
        await asyncio.sleep(0)
        if not self.alive:
            raise errors.WorkerLost("The process is gone.", retry_after_s=5.0)
        if not answers:
            await self._until_ended(0.01)
            raise errors.Unavailable("It does not answer.", retry_after_s=5.0)

    async def _until_ended(self, timeout_s: float) -> None:
        try:
            await asyncio.wait_for(self._ended.wait(), timeout_s)
        except TimeoutError:
            return
        raise errors.WorkerLost("The process is gone.", retry_after_s=5.0)

    async def start(self, epoch: int, where: tuple[str, str], threads: int, *, timeout_s: float) -> None:
        await self._hear("start", epoch)
        self.threads = threads
        if self.board.value.phase == "nodding":
            return self.tell(phase="ready")
        self.tell(phase="loading", node_id=where[0], node_ip=where[1], progress=LoadProgress("loading", 0.1))
        if self.world.loads:
            self.load()

    async def report(self, epoch: int, version: int, wait_s: float, *, timeout_s: float) -> tuple[int, Report]:
        """Like the report of a real worker, but it waits only briefly for news."""
        await self._hear("report", epoch)
        news = asyncio.ensure_future(self.board.newer(version, min(wait_s, 0.03)))
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait((news, ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            news.cancel()
        await self._reach(self.answers)
        return self.board.version, self.board.value

    async def describe(self, *, timeout_s: float) -> tuple[Wanted, Claim, Report]:
        await self._hear("describe")
        if self.describe_error is not None:
            raise self.describe_error
        return self.wanted, self.claim, self.board.value

    async def drain(self, epoch: int, *, timeout_s: float) -> None:
        await self._hear("drain", epoch)
        if str(self.name) in self.world.routed():
            self.world.broken.append(f"{self.name} was told to stop before it was routed out")
        self.tell(phase="draining" if self.in_hand else "drained")

    async def doze(self, epoch: int, *, timeout_s: float) -> None:
        await self._hear("doze", epoch)
        if str(self.name) in self.world.routed():
            self.world.broken.append(f"{self.name} was told to doze before it was routed out")
        self.tell(phase="nodding")
        if not self.in_hand:
            self.finish()

    async def set_threads(self, epoch: int, threads: int, *, timeout_s: float) -> None:
        await self._hear("set_threads", epoch)
        self.threads = threads

    async def logs(self, lines: int, *, timeout_s: float) -> list[str]:
        await self._hear("logs")
        return [f"{self.name} says {number}" for number in range(5)][-lines:]

    async def whereabouts(self) -> tuple[str, str, int]:
        return "n0", "10.0.0.1", self.pid

    async def probe(self, timeout_s: float) -> float:
        await self._reach(self.answers and self.computes)
        await self._until_ended(0.005)
        self.probes += 1
        if self.fails_its_example:
            raise errors.InferenceFailed("ValueError: no")
        return 0.005

    async def overdue(self, timeout_s: float) -> Sequence[str]:
        await self._reach(self.answers)
        return self.late

    def kill(self) -> None:
        """The supervisor hears of the death a moment later."""
        self.alive = False
        asyncio.get_running_loop().call_soon(self._ended.set)

    # --- what happens to it

    def tell(self, **changes: Any) -> None:
        self.board.amend(lambda report: replace(report, **changes))

    def load(self) -> None:
        if error := self.world.load_errors.get(self.wanted.spec.options.get("weights")):
            self.tell(phase="failed", error=error, log_tail=("reading weights", "no"))
        else:
            loads = self.board.value.loads + 1
            took = {"load_seconds": 0.1 if loads == 1 else 0.03, "loads": loads, "peak": self.world.peak}
            self.tell(phase="ready", progress=LoadProgress("ready", 1.0), **took)

    def use(self) -> None:
        """It is given something to do."""
        self.tell(is_idle=False, spells=self.board.value.spells + 1)

    def finish(self) -> None:
        self.in_hand = 0
        if self.board.value.phase == "nodding" and self.world.lets_go:
            self.tell(phase="dozing", memory_bytes=self.world.dozing_bytes)
        else:
            self.tell(phase="drained")


class World:
    """A simulated platform. What survives the end of a supervisor is kept here."""

    def __init__(self, *nodes: Node) -> None:
        self.there = list(nodes) or [make_node("n0"), make_node("n1")]
        self.processes: dict[WorkerName, Process] = {}
        self.started: list[str] = []
        self.ended_by_pid: list[tuple[str, int]] = []
        #: Forbidden actions that a supervisor has taken.
        self.broken: list[str] = []
        self.pids = itertools.count(100)
        #: If false, workers load only when they are told to.
        self.loads = True
        #: If false, what dozes cannot let go of its model; and what it takes when it does.
        self.lets_go = True
        self.dozing_bytes = 100 * 2**20
        #: If false, workers never report anything.
        self.answers = True
        self.load_errors: dict[Any, Exception] = {"bad": errors.LoadFailed("m could not be loaded: bad weights")}
        self.start_error: Exception | None = None
        self.find_errors: list[Exception] = []
        #: Makes `start` wait.
        self.gate = asyncio.Event()
        self.gate.set()
        self.supervisor: Supervisor | None = None
        self.clock_ahead = self.wall_clock_ahead = 0.0
        #: The memory of the supervisor's own node, as it sees it.
        self.reading: tuple[str, Memory] | None = None
        self.folders = {make_wanted().source.id}
        self.looks: list[tuple[str, str]] = []
        #: What workers say that they took at most.
        self.peak: Needs | None = None
        #: What launches take by the disks of nodes, where that is not what they were planned with.
        self.weights_on: dict[str, dict[str, Wanted]] = {}
        #: Further workers would be READY sooner if they started later.
        self.is_importing = False
        #: Supervisors that a newer one has taken the workers from.
        self.stood_back = 0
        #: What workers have of cards, as it was last told.
        self.leases: dict[str, Lease] = {}

    def clock(self) -> float:
        return time.monotonic() + self.clock_ahead

    async def nodes(self) -> Sequence[Node]:
        await asyncio.sleep(0.001)  # asking takes a moment, in which other things may happen
        return list(self.there)

    def keep_leases(self, leases: Mapping[str, Lease]) -> None:
        self.leases = dict(leases)

    async def may_start(self, wanted: Wanted, placement: Placement) -> bool:
        return not self.is_importing

    async def start(self, name: WorkerName, wanted: Wanted, placement: Placement) -> Process:
        self.started.append(str(name))
        await self.gate.wait()
        if self.start_error is not None:
            raise self.start_error
        process = self.processes[name] = Process(name, wanted, placement.claim, self)
        return process

    async def find(self) -> Mapping[WorkerName, Process]:
        if self.find_errors:
            raise self.find_errors.pop()
        return {name: process for name, process in self.processes.items() if process.alive}

    def memory(self) -> tuple[str, Memory] | None:
        return self.reading

    async def look_for(self, node_id: str, source: Source) -> None:
        self.looks.append((node_id, source.id))
        if source.id not in self.folders:
            raise errors.DownloadFailed(f"{source.id} does not exist on {node_id}.")

    async def weigh(self, node_id: str, wanted: Wanted) -> Weighed:
        return Weighed(self.weights_on.get(node_id, {}).get(wanted.uid, wanted))

    async def stand_back(self) -> None:
        self.stood_back += 1

    async def end_process(self, node_id: str, pid: int) -> bool:
        self.ended_by_pid.append((node_id, pid))
        return True

    def alive(self, uid: str = "m") -> list[Process]:
        return [p for p in self.processes.values() if p.alive and p.name.uid == uid]

    def the(self, uid: str = "m") -> Process:
        (process,) = self.alive(uid)
        return process

    def routed(self) -> set[str]:
        assert self.supervisor is not None
        models = self.supervisor._publisher.snapshots.value.models
        return {route.worker for model in models.values() for route in model.workers}


class Complaints(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record.getMessage())


class Scene:
    """A supervisor with a simulated platform. At the end no tick may have failed, no error may be unread, and no
    process may be unknown to the supervisor."""

    def __init__(self, world: World, store: SqliteStore, **settings: Any) -> None:
        self.world, self.store = world, store
        timings = {"tick_s": 0.02, "probe_s": 0.02, "drain_s": 60.0, "start_timeout_s": 60.0, **settings}
        self.settings = Settings(**timings, memory_fraction=1.0)
        self.suffixes = map("s{}".format, itertools.count())
        self.supervisor = self._make()
        self.stray: list[Any] = []
        self.complaints = Complaints()

    def _make(self, **more: Any) -> Supervisor:
        found = Supervisor(
            self.store,
            self.world,
            self.settings,
            new_suffix=lambda: next(self.suffixes),
            clock=self.world.clock,
            wall_clock=lambda: time.time() + self.world.wall_clock_ahead,
            **more,
        )
        self.world.supervisor = found
        return found

    async def __aenter__(self) -> Scene:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: self.stray.append(context))
        logging.getLogger("cluster.control").addHandler(self.complaints)
        self.supervisor.begin()
        return self

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if error is None:
                known = set(self.supervisor._fleet.workers)
                unknown = [str(p.name) for p in self.world.processes.values() if p.alive and str(p.name) not in known]
                assert not unknown, unknown
        finally:
            await self.stop()
            logging.getLogger("cluster.control").removeHandler(self.complaints)
        if error is None:
            await asyncio.sleep(0)
            gc.collect()
            assert not self.stray, self.stray
            assert "a tick failed" not in self.complaints.told
            assert not self.world.broken, self.world.broken

    async def stop(self) -> None:
        """Tries until it succeeds; other tests check whether a single call is enough."""
        for _ in range(10):
            try:
                return await asyncio.wait_for(self.supervisor.stop(), 0.2)
            except TimeoutError:
                continue

    async def replace_supervisor(self, **more: Any) -> Supervisor:
        """The old supervisor disappears without shutting down; the new one gets the same store and the same
        platform."""
        await self.stop()
        self.supervisor = self._make(**more)
        self.supervisor.begin()
        return self.supervisor

    # --- what people do

    async def launch(self, wanted: Wanted, uid_given: bool = True) -> ModelStatus:
        return await self.supervisor.launch(wanted, uid_given)

    async def ready(self, *wanted: Wanted) -> None:
        for wish in wanted or [make_wanted()]:
            await self.launch(wish)
        for wish in wanted or [make_wanted()]:
            await self.state(M.READY, wish.uid)

    async def state(self, *states: ModelState, uid: str = "m") -> ModelStatus:
        """Waits for one of these states."""
        names = [state for state in states if isinstance(state, ModelState)]
        uid = next((state for state in states if not isinstance(state, ModelState)), uid)
        status = await self.supervisor.status(uid)
        async with asyncio.timeout(PATIENCE_S):
            while status.state not in names:
                status = await self.supervisor.status(uid, status.version, PATIENCE_S)
        return status

    async def until(self, holds: Callable[[], Any]) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            while not (found := holds()):
                await asyncio.sleep(0.002)
        return found

    async def nothing_left(self, uid: str = "m") -> None:
        await self.until(lambda: not self.supervisor._fleet.workers and not self.world.alive(uid))
        assert self.store.get("wish", uid) is None
        assert self.supervisor._watch.handles == {}
        assert (await self.supervisor.watch(-1, 0)).models == {}
        with pytest.raises(errors.UnknownUid):
            await self.supervisor.status(uid)

    async def ticks(self, count: int = 3) -> None:
        """Waits until it has compared what is wanted with what runs that many times."""
        seen = 0
        fleet = self.supervisor._fleet
        plan = fleet.plan

        def counted(now: float) -> Any:
            nonlocal seen
            seen += 1
            return plan(now)

        fleet.plan = counted  # type: ignore[method-assign]
        await self.until(lambda: seen > count)
        del fleet.plan

    async def events(self, uid: str = "m") -> list[str]:
        return [event.text for event in await self.supervisor.events(uid)]


def play(
    scene: Callable[[Scene], Coroutine[Any, Any, None]],
    *nodes: Node,
    store: SqliteStore | None = None,
    **settings: Any,
) -> None:
    async def whole() -> None:
        async with asyncio.timeout(PATIENCE_S * 4), Scene(World(*nodes), store or SqliteStore(), **settings) as found:
            await scene(found)

    asyncio.run(whole())


async def waiting(s: Scene) -> None:
    await s.ready()
    s.world.there.clear()
    await s.state(M.WAITING)


async def starting(s: Scene) -> None:
    s.world.gate.clear()
    await s.launch(make_wanted())
    await s.until(lambda: s.world.started)


async def starting_mute(s: Scene) -> None:
    s.world.answers = False
    await s.launch(make_wanted())
    await s.until(s.world.alive)


async def loading(s: Scene) -> None:
    s.world.loads = False
    await s.launch(make_wanted())
    await s.until(lambda: [w for w in s.supervisor._fleet.workers.values() if w.state == S.LOADING])


async def serving(s: Scene) -> None:
    await s.ready(make_wanted(replica=3))


async def silent(s: Scene) -> None:
    await s.ready()
    s.world.the().answers = False
    await s.until(lambda: [w for w in s.supervisor._fleet.workers.values() if w.state == S.SUSPECT])


async def failed(s: Scene) -> None:
    await s.launch(make_wanted(options={"weights": "bad"}))
    await s.state(M.FAILED)


async def lost(s: Scene) -> None:
    await s.ready()
    s.world.the().kill()
    await s.state(M.WAITING)


async def updating(s: Scene) -> None:
    await s.ready()
    s.world.loads = False
    await s.supervisor.apply([make_wanted(options={"steps": 2})], prune=False, dry_run=False)
    await s.until(lambda: len(s.world.alive()) == 2)


def changes(made: Sequence[Change]) -> dict[str, str]:
    return {change.uid: change.change for change in made}
