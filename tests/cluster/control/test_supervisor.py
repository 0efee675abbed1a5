from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster import errors
from cluster.catalog.entry import Entry, Source
from cluster.control.placement import Placement
from cluster.control.sqlite_store import SqliteStore
from cluster.control.store import Kind
from cluster.control.supervisor import Supervisor
from cluster.launch import Wanted
from cluster.metrics import page
from cluster.settings import Settings
from cluster.status import Claim, LoadProgress, Memory, ModelState, ModelStatus, Node, Report, WorkerName, WorkerState
from cluster.versioned import Versioned
from cluster.worker.metrics import WorkerMetrics
from cluster.worker.worker import Worker
from deployments.ingress.routing import RouteTable
from tests.full_disk import unwritable
from tests.make import make_node, make_wanted

M = ModelState
S = WorkerState
PATIENCE_S = 5.0


@pytest.fixture(scope="module", autouse=True)
def few_objects_to_look_at() -> Iterator[None]:
    """Every scene collects its garbage, to find tasks whose error nobody took; what was there before is left out."""
    gc.freeze()
    yield
    gc.unfreeze()


class Process:
    """A worker on paper: it loads at once, unless the world says otherwise, and does what the test tells it to."""

    def __init__(self, name: WorkerName, wanted: Wanted, claim: Claim, world: World) -> None:
        self.name, self.wanted, self.claim, self.world = name, wanted, claim, world
        self.remote = f"actor of {name}"
        self.pid = next(world.pids)
        self.board = Versioned(Report(pid=self.pid))
        self.epoch = 0
        self.alive = True
        self.answers = world.answers
        self.computes = True
        self.in_hand = 0
        self.threads = 0
        self.commands: list[str] = []
        self.describe_error: Exception | None = None
        self._ended = asyncio.Event()

    async def control(self, method: str, *args: Any, timeout_s: float) -> Any:
        self.commands.append(method)
        await self._reach(self.answers)
        if method in ("start", "report", "drain", "set_threads"):
            epoch, *args = args
            if epoch < self.epoch:
                raise errors.StaleEpoch(f"{self.name} obeys epoch {self.epoch}, not {epoch}.")
            self.epoch = epoch
        return await getattr(self, f"_{method}")(*args)

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

    async def _start(self, where: tuple[str, str], threads: int) -> None:
        self.threads = threads
        self.tell(phase="loading", node_id=where[0], node_ip=where[1], progress=LoadProgress("loading", 0.1))
        if self.world.loads:
            self.load()

    async def _report(self, seen: int, wait_s: float) -> tuple[int, Report]:
        """Like a real one, but its long poll is short."""
        news = asyncio.ensure_future(self.board.newer(seen, min(wait_s, 0.03)))
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait((news, ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            news.cancel()
        await self._reach(self.answers)
        return self.board.version, self.board.value

    async def _describe(self) -> tuple[Wanted, Claim, Report]:
        if self.describe_error is not None:
            raise self.describe_error
        return self.wanted, self.claim, self.board.value

    async def _drain(self) -> None:
        if str(self.name) in self.world.routed():
            self.world.broken.append(f"{self.name} was told to stop before it was routed out")
        self.tell(phase="draining" if self.in_hand else "drained")

    async def _set_threads(self, threads: int) -> None:
        self.threads = threads

    async def _logs(self, lines: int) -> list[str]:
        return [f"{self.name} says {number}" for number in range(5)][-lines:]

    async def _samples(self) -> list[Any]:
        return WorkerMetrics(self.name.uid, str(self.name)).collect()

    async def whereabouts(self) -> tuple[str, str, int]:
        return "n0", "10.0.0.1", self.pid

    async def probe(self, timeout_s: float) -> float:
        await self._reach(self.answers and self.computes)
        await self._until_ended(0.005)
        return 0.005

    def kill(self) -> None:
        """The death is heard of a moment later."""
        self.alive = False
        asyncio.get_running_loop().call_soon(self._ended.set)

    # --- what happens to it

    def tell(self, **changes: Any) -> None:
        self.board.amend(lambda report: replace(report, **changes))

    def load(self) -> None:
        if error := self.world.load_errors.get(self.wanted.spec.options.get("weights")):
            self.tell(phase="failed", error=error, log_tail=("reading weights", "no"))
        else:
            self.tell(phase="ready", progress=LoadProgress("ready", 1.0), load_seconds=0.1)

    def finish(self) -> None:
        self.in_hand = 0
        self.tell(phase="drained")


class World:
    """A platform whose machines are names; what outlives a supervisor is in here."""

    def __init__(self, *nodes: Node) -> None:
        self.there = list(nodes) or [make_node("n0"), make_node("n1")]
        self.processes: dict[WorkerName, Process] = {}
        self.started: list[str] = []
        self.ended_by_pid: list[tuple[str, int]] = []
        #: What a supervisor may never do, and did.
        self.broken: list[str] = []
        self.pids = itertools.count(100)
        #: False: workers load when they are told to.
        self.loads = True
        #: False: workers never say a word.
        self.answers = True
        self.load_errors: dict[Any, Exception] = {"bad": errors.LoadFailed("m could not be loaded: bad weights")}
        self.start_error: Exception | None = None
        self.find_errors: list[Exception] = []
        #: Makes `start` wait.
        self.gate = asyncio.Event()
        self.gate.set()
        self.supervisor: Supervisor | None = None
        self.clock_ahead = self.wall_clock_ahead = 0.0
        #: What the supervisor can see of its own node's memory.
        self.reading: tuple[str, Memory] | None = None
        self.folders = {make_wanted().source.id}
        self.looks: list[tuple[str, str]] = []

    def clock(self) -> float:
        return time.monotonic() + self.clock_ahead

    async def nodes(self) -> Sequence[Node]:
        await asyncio.sleep(0.001)  # asking takes a moment, in which things happen
        return list(self.there)

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
        models = self.supervisor._snapshots.value.models
        return {route.worker for model in models.values() for route in model.workers}


class Complaints(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record.getMessage())


class Scene:
    """A supervisor over a world. On the way out: no failed tick, no stray error, no process that nobody knows."""

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
        logging.getLogger("cluster.control.supervisor").addHandler(self.complaints)
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
            logging.getLogger("cluster.control.supervisor").removeHandler(self.complaints)
        if error is None:
            await asyncio.sleep(0)
            gc.collect()
            assert not self.stray, self.stray
            assert "a tick failed" not in self.complaints.told
            assert not self.world.broken, self.world.broken

    async def stop(self) -> None:
        """Patiently: whether one call is enough is a test of its own."""
        for _ in range(10):
            try:
                return await asyncio.wait_for(self.supervisor.stop(), 0.2)
            except TimeoutError:
                continue

    async def replace_supervisor(self, **more: Any) -> Supervisor:
        """The old one is gone without a word; the new one has the same store and the same world."""
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
        assert self.supervisor._watched == {}
        assert (await self.supervisor.watch(-1, 0)).models == {}
        with pytest.raises(errors.UnknownUid):
            await self.supervisor.status(uid)

    async def ticks(self, count: int = 3) -> None:
        """So many times it has compared wishes with what runs."""
        seen = 0
        fleet = self.supervisor._fleet
        plan = fleet.plan

        def counted(now: float) -> Any:
            nonlocal seen
            seen += 1
            return plan(now)

        fleet.plan = counted  # type: ignore[method-assign]
        await self.until(lambda: seen > count)
        del fleet.plan  # type: ignore[method-assign]

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


# -------------------------------------------------------------------------------------------------- launching


def test_a_launch_is_started_loaded_and_routed() -> None:
    async def scene(s: Scene) -> None:
        status = await s.launch(make_wanted(replica=2))
        assert (status.state, status.generation, status.ready) == (M.LOADING, 1, 0)
        status = await s.state(M.READY)
        assert (status.ready, status.progress, len(status.workers)) == (2, 1.0, 2)
        assert {worker.node for worker in status.workers} == {"n0", "n1"}
        snapshot = await s.supervisor.watch(-1, 0)
        assert {route.worker for route in snapshot.models["m"].workers} == set(s.world.started)
        assert snapshot.handles == {name: f"actor of {name}" for name in s.world.started}
        events = await s.events()
        assert events[0] == "Launch model m, 2 replica(s)"
        assert events[1] == "Starting worker worker:m:1:0-s0 on n0"
        assert any(text.startswith("Worker worker:m:1:0-s0 is READY after") for text in events)

    play(scene)


def test_variables_that_a_stored_wish_may_not_set_are_told() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(envs={"OMP_NUM_THREADS": "1", "BROWSER": "x"}))
        assert "envs sets no BROWSER: CLUSTER_ALLOW_ENVS lacks it" in await s.events()

    play(scene)


def test_a_launch_is_a_wish_that_outlives_whoever_made_it() -> None:
    async def scene(s: Scene) -> None:
        await s.launch(make_wanted())
        assert Wanted.model_validate(s.store.get("wish", "m")).uid == "m"
        await s.state(M.READY)

    play(scene)


def test_an_equal_launch_is_the_same_launch() -> None:
    async def scene(s: Scene) -> None:
        first = await s.launch(make_wanted(options={"steps": 2}))
        await s.state(M.READY)
        again = await s.launch(make_wanted(options={"steps": 2}))
        assert again.generation == first.generation
        await s.ticks()
        assert len(s.world.started) == 1

    play(scene)


@pytest.mark.parametrize("uid_given", [True, False])
def test_fifty_launches_at_once_are_one(uid_given: bool) -> None:
    async def scene(s: Scene) -> None:
        statuses = await asyncio.gather(*(s.launch(make_wanted(), uid_given) for _ in range(50)))
        assert {(status.uid, status.generation) for status in statuses} == {("m", 1)}
        await s.state(M.READY)
        await s.ticks()
        assert len(s.world.started) == 1

    play(scene)


def test_another_launch_under_the_same_uid_is_refused() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        with pytest.raises(errors.Conflict) as caught:
            await s.launch(make_wanted(replica=2, options={"steps": 4}))
        assert caught.value.message == (
            "Model uid m is taken by another launch (replica, steps differ); terminate it or choose another model_uid."
        )
        assert (await s.supervisor.status("m")).replica == 1

    play(scene)


def test_another_launch_that_did_not_ask_for_the_uid_gets_one() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        status = await s.launch(make_wanted(options={"steps": 4}), uid_given=False)
        assert status.uid == "m-s1"
        await s.state(M.READY, status.uid)
        assert len(s.world.alive("m")) == len(s.world.alive("m-s1")) == 1

    play(scene)


def test_what_does_not_fit_is_refused_and_leaves_nothing() -> None:
    async def scene(s: Scene) -> None:
        with pytest.raises(errors.DoesNotFit) as caught:
            await s.launch(make_wanted(claim_gib=99))
        assert "n0: 16.0 GiB of 16.0 GiB memory free, 99.0 GiB asked" in caught.value.message
        assert await s.supervisor.could_launch(make_wanted(claim_gib=99)) == caught.value.message
        assert await s.supervisor.could_launch(make_wanted()) == ""
        await s.nothing_left()

    play(scene)


def test_a_dry_run_looks_for_the_folder_where_the_launch_would() -> None:
    async def scene(s: Scene) -> None:
        wanted = make_wanted(worker_ip="n1").model_copy(update={"source": Source(hub="local", id="/models/m")})
        with pytest.raises(errors.DownloadFailed, match="/models/m does not exist on n1"):
            await s.supervisor.could_launch(wanted)
        s.world.folders.add("/models/m")
        assert await s.supervisor.could_launch(wanted) == ""
        assert s.world.looks == [("n1", "/models/m")] * 2
        assert await s.supervisor.could_launch(make_wanted()) == ""
        on_a_hub = wanted.model_copy(update={"source": Source(hub="huggingface", id="org/m")})
        assert await s.supervisor.could_launch(on_a_hub) == "" and len(s.world.looks) == 3

    play(scene)


def test_launches_at_once_do_not_count_on_the_same_room() -> None:
    async def scene(s: Scene) -> None:
        asked = [make_wanted(f"m{n}", claim_gib=10) for n in range(4)]
        found = await asyncio.gather(*map(s.launch, asked), return_exceptions=True)
        assert sum(isinstance(one, errors.DoesNotFit) for one in found) == 2

    play(scene)


def test_a_failed_launch_says_why_and_its_process_is_ended() -> None:
    async def scene(s: Scene) -> None:
        await s.launch(make_wanted(options={"weights": "bad"}))
        status = await s.state(M.FAILED)
        assert (status.reason, status.error_code) == ("m could not be loaded: bad weights", "load_failed")
        assert status.log_tail == ("reading weights", "no")
        assert await s.supervisor.logs("m", 1) == ["no"]
        await s.ticks()
        assert s.world.alive() == [] and len(s.world.started) == 1

    play(scene)


def test_launching_a_failed_model_again_tries_again() -> None:
    async def scene(s: Scene) -> None:
        wanted = make_wanted(options={"weights": "bad"})
        await s.launch(wanted)
        await s.state(M.FAILED)
        s.world.load_errors.clear()
        assert (await s.launch(wanted)).generation == 2
        await s.state(M.READY)
        assert s.world.the().name.generation == 2

    play(scene)


def test_weights_that_can_be_had_later_are_tried_again() -> None:
    async def scene(s: Scene) -> None:
        s.world.load_errors["bad"] = errors.DownloadFailed("The hub cannot be reached.")
        await s.launch(make_wanted(options={"weights": "bad"}))
        await s.state(M.FAILED)
        s.world.load_errors.clear()
        s.world.clock_ahead += 61
        await s.until(lambda: s.supervisor._fleet.losses)
        s.world.clock_ahead += 2
        await s.state(M.READY)

    play(scene)


# --------------------------------------------------------------------------------------------- terminating


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


@pytest.mark.parametrize(
    "phase",
    [waiting, starting, starting_mute, loading, serving, silent, failed, lost, updating],
    ids=lambda f: f.__name__,
)
def test_terminate_leaves_nothing_in_whatever_phase(phase: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def scene(s: Scene) -> None:
        await phase(s)
        await s.supervisor.terminate("m")
        s.world.gate.set()
        await s.nothing_left()
        await s.ticks()
        assert not s.world.alive()

    play(scene, drain_s=0.1)


def test_what_is_terminated_is_routed_out_at_once_and_finishes_what_it_has() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        process = s.world.the()
        process.in_hand = 3
        await s.supervisor.terminate("m")
        assert (await s.supervisor.watch(-1, 0)).models == {}
        await s.until(lambda: process.board.value.phase == "draining")
        await s.ticks()
        assert process.alive
        process.finish()
        await s.nothing_left()

    play(scene)


def test_work_that_does_not_end_is_ended_at_the_deadline() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        process = s.world.the()
        process.in_hand = 3
        await s.supervisor.terminate("m")
        await s.until(lambda: process.board.value.phase == "draining")
        s.world.clock_ahead += 61
        await s.nothing_left()

    play(scene, drain_s=60)


def test_what_was_terminated_can_be_launched_again() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        await s.supervisor.terminate("m")
        await s.nothing_left()
        assert (await s.launch(make_wanted())).generation == 2
        await s.state(M.READY)

    play(scene)


def test_what_was_terminated_can_be_launched_while_its_last_worker_drains() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        old = s.world.the()
        old.in_hand = 1
        await s.supervisor.terminate("m")
        await s.until(lambda: old.board.value.phase == "draining")
        await s.launch(make_wanted())
        await s.state(M.READY)
        assert old.alive
        old.finish()
        await s.until(lambda: not old.alive)

    play(scene)


@pytest.mark.parametrize("command", ["terminate", "cancel", "status", "events", "scale", "logs"])
def test_commands_on_what_is_not_launched_say_so(command: str) -> None:
    async def scene(s: Scene) -> None:
        arguments = {"scale": (2,), "logs": (10,)}.get(command, ())
        with pytest.raises(errors.UnknownUid):
            await getattr(s.supervisor, command)("m", *arguments)

    play(scene)


@pytest.mark.parametrize("phase", [starting, loading, failed], ids=lambda f: f.__name__)
def test_a_launch_can_be_cancelled(phase: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def scene(s: Scene) -> None:
        await phase(s)
        await s.supervisor.cancel("m")
        s.world.gate.set()
        await s.nothing_left()
        assert "Launch cancelled" in await s.events()

    play(scene)


def test_what_is_ready_is_not_cancelled() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        with pytest.raises(errors.Conflict):
            await s.supervisor.cancel("m")
        await s.state(M.READY)

    play(scene)


def test_what_serves_in_part_is_not_cancelled() -> None:
    """It is not launching: a cancelled update or a lost replica must not take a serving model away."""

    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=2))
        s.world.alive()[0].kill()
        await s.state(M.DEGRADED)
        with pytest.raises(errors.Conflict):
            await s.supervisor.cancel("m")

    play(scene)


def test_what_lost_its_only_worker_is_not_cancelled() -> None:
    """It is being restarted, not launched."""

    async def scene(s: Scene) -> None:
        await lost(s)
        with pytest.raises(errors.Conflict):
            await s.supervisor.cancel("m")

    play(scene)


# ---------------------------------------------------------------------------------------------------- scaling


def test_scaling_up_leaves_the_workers_there_are() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        first = s.world.the()
        assert (await s.supervisor.scale("m", 3)).replica == 3
        await s.until(lambda: len(s.world.alive()) == 3)
        status = await s.state(M.READY)
        assert (status.generation, status.ready, first.alive) == (1, 3, True)

    play(scene)


def test_scaling_down_drains_the_highest_replicas() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=3))
        await s.supervisor.scale("m", 1)
        await s.until(lambda: len(s.supervisor._fleet.workers) == 1)
        assert s.world.the().name.index == 0

    play(scene)


def test_a_worker_is_routed_out_before_it_is_told_to_stop() -> None:
    """Also when another one is just being started, which takes its time."""

    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=2))
        surplus = s.world.alive()[1]
        s.world.gate.clear()
        await s.supervisor.scale("m", 1)
        await s.launch(make_wanted("other"))
        await s.until(lambda: surplus.board.value.phase == "drained")
        s.world.gate.set()
        await s.state(M.READY, "other")

    play(scene)


@pytest.mark.parametrize("replica", [0, -1])
def test_scaling_to_none_is_refused(replica: int) -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        with pytest.raises(errors.BadOption, match="terminate m"):
            await s.supervisor.scale("m", replica)

    play(scene)


def test_scaling_beyond_the_room_is_refused_and_changes_nothing() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(claim_gib=10))
        with pytest.raises(errors.DoesNotFit):
            await s.supervisor.scale("m", 3)
        assert (await s.supervisor.status("m")).replica == 1
        assert (await s.state(M.READY)).ready == 1

    play(scene)


def test_what_is_pinned_to_cards_is_not_scaled() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(n_gpu=1, gpu_idx=[0]))
        with pytest.raises(errors.BadRequest, match="pinned"):
            await s.supervisor.scale("m", 2)

    play(scene, make_node(gpus=2))


# --------------------------------------------------------------------------------------------------- declared


def changes(found: Sequence[Any]) -> dict[str, str]:
    return {change.uid: change.change for change in found}


def test_a_declared_list_becomes_what_is_wished() -> None:
    async def scene(s: Scene) -> None:
        declared = [make_wanted("a"), make_wanted("b", replica=2), make_wanted("c")]
        assert changes(await s.supervisor.apply(declared, prune=True, dry_run=False)) == {
            **{"a": "launch", "b": "launch", "c": "launch"}
        }
        for uid in "abc":
            await s.state(M.READY, uid)
        declared = [make_wanted("a"), make_wanted("b", replica=1), make_wanted("d"), make_wanted("c", envs={"A": "1"})]
        found = await s.supervisor.apply(declared, prune=True, dry_run=False)
        assert changes(found) == {"a": "same", "b": "scale", "c": "update", "d": "launch"}
        assert {change.uid: change.fields for change in found if change.fields} == {"b": ("replica",), "c": ("envs",)}
        await s.until(lambda: len(s.world.alive("b")) == 1 and [p.name.generation for p in s.world.alive("c")] > [3])
        for uid in "abcd":
            await s.state(M.READY, uid)

    play(scene)


def test_a_dry_run_changes_nothing() -> None:
    async def scene(s: Scene) -> None:
        await s.supervisor.apply([make_wanted("a")], prune=True, dry_run=False)
        await s.state(M.READY, "a")
        found = await s.supervisor.apply([make_wanted("b")], prune=True, dry_run=True)
        assert changes(found) == {"a": "terminate", "b": "launch"}
        await s.ticks()
        assert [status.uid for status in await s.supervisor.all_statuses()] == ["a"]

    play(scene)


def test_only_what_an_earlier_list_declared_is_pruned() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("by-hand"))
        await s.supervisor.apply([make_wanted("declared")], prune=True, dry_run=False)
        await s.state(M.READY, "declared")
        assert changes(await s.supervisor.apply([], prune=False, dry_run=False)) == {}
        assert changes(await s.supervisor.apply([], prune=True, dry_run=False)) == {"declared": "terminate"}
        await s.until(lambda: not s.world.alive("declared"))
        assert [status.uid for status in await s.supervisor.all_statuses()] == ["by-hand"]

    play(scene)


def test_what_ran_already_when_it_was_declared_is_declared_from_then_on() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        assert changes(await s.supervisor.apply([make_wanted()], prune=True, dry_run=False)) == {"m": "same"}
        assert changes(await s.supervisor.apply([], prune=True, dry_run=False)) == {"m": "terminate"}

    play(scene)


def test_an_update_serves_without_a_gap() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        old = s.world.the()
        s.world.loads = False
        await s.supervisor.apply([make_wanted(options={"steps": 2})], prune=False, dry_run=False)
        new = (await s.until(lambda: [p for p in s.world.alive() if p is not old]))[0]
        await s.ticks()
        assert s.world.routed() == {str(old.name)}
        new.load()
        await s.until(lambda: not old.alive)
        assert s.world.routed() == {str(new.name)}
        assert (await s.state(M.READY)).generation == 2

    play(scene)


def test_a_bad_update_leaves_the_old_serving() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        old = s.world.the()
        await s.supervisor.apply([make_wanted(options={"weights": "bad"})], prune=False, dry_run=False)
        await s.until(lambda: (len(s.world.processes) == 2) and s.world.alive() == [old])
        await s.ticks()
        status = await s.state(M.DEGRADED)
        assert status.reason == "m could not be loaded: bad weights"
        assert s.world.routed() == {str(old.name)}

    play(scene)


def test_after_a_bad_update_the_last_old_worker_is_replaced_when_it_dies() -> None:
    """Also by a supervisor that came later, which knows it from the store."""

    async def scene(s: Scene) -> None:
        await s.ready()
        old = s.world.the()
        await s.supervisor.apply([make_wanted(options={"weights": "bad"})], prune=False, dry_run=False)
        for _ in range(2):
            await s.supervisor.status("m")
            await s.until(lambda: "could not be loaded" in s.supervisor._statuses.value["m"].reason)
            s.world.the().kill()
            await s.until(lambda: not s.world.alive())
            assert (await s.supervisor.watch(-1, 0)).models["m"].recovering
            s.world.clock_ahead += 400
            again = await s.until(lambda: [p for p in s.world.alive() if str(p.name) in s.world.routed()])
            assert [(p.name.generation, p.wanted.spec) for p in again] == [(1, old.wanted.spec)]
            status = await s.state(M.DEGRADED)
            assert (status.generation, status.reason) == (2, "m could not be loaded: bad weights")
            await s.ticks()
            await s.replace_supervisor()
        assert [text for text in await s.events() if text.endswith("(until the new version is READY)")]
        await s.supervisor.apply([make_wanted(options={"weights": "good"})], prune=False, dry_run=False)
        await s.state(M.READY)
        await s.until(lambda: [p.name.generation for p in s.world.alive()] == [3])
        s.world.the().kill()
        s.world.clock_ahead += 400
        await s.until(lambda: [p.name.generation for p in s.world.alive()] == [3])

    play(scene)


def test_after_everything_died_what_was_ready_is_recovering_and_what_never_was_is_loading() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        await s.launch(make_wanted("bad", options={"weights": "bad"}))
        await s.state(M.FAILED, "bad")
        await s.stop()
        for process in s.world.alive("m"):
            process.kill()
        s.world.loads = False
        await s.replace_supervisor()
        models = (await s.supervisor.watch(-1, 0)).models
        assert {uid: model.recovering for uid, model in models.items()} == {"m": True, "bad": False}
        with pytest.raises(errors.WorkerLost):
            raise RouteTable.why_not(models["m"])

    play(scene)


def test_terminate_forgets_what_was_ready() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        await s.until(lambda: s.store.get("ready", "m"))
        await s.supervisor.terminate("m")
        assert s.store.all("ready") == {}
        await s.nothing_left()
        s.world.loads = False
        await s.launch(make_wanted())
        await s.replace_supervisor()
        assert not (await s.supervisor.watch(-1, 0)).models["m"].recovering

    play(scene)


def test_a_wish_that_changes_while_its_worker_is_being_started_gets_a_worker_of_its_own() -> None:
    async def scene(s: Scene) -> None:
        await starting(s)
        await s.supervisor.apply([make_wanted(options={"steps": 2})], prune=False, dry_run=False)
        s.world.gate.set()
        await s.state(M.READY)
        await s.until(lambda: len(s.world.alive()) == 1)
        process = s.world.the()
        assert (process.name.generation, process.wanted.generation) == (2, 2)
        assert all(p.name.generation == p.wanted.generation for p in s.world.processes.values())

    play(scene)


# ------------------------------------------------------------------------------------------- things that break


def test_a_death_is_heard_of_at_once() -> None:
    """By the call that is pending at the worker, not by the next tick or probe."""

    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=2))
        version = (await s.supervisor.watch(-1, 0)).version
        dead, left = s.world.alive()
        dead.kill()
        snapshot = await s.supervisor.watch(version, PATIENCE_S)
        assert [route.worker for route in snapshot.models["m"].workers] == [str(left.name)]
        assert snapshot.models["m"].recovering

    play(scene, tick_s=60, probe_s=60)


def test_a_dead_worker_is_replaced_after_its_pause() -> None:
    async def scene(s: Scene) -> None:
        await lost(s)
        await s.ticks()
        assert s.world.alive() == []
        s.world.clock_ahead += 1.1
        status = await s.state(M.READY)
        assert status.restarts == 1
        assert s.world.the().name == WorkerName("m", 1, 0, "s1")
        events = await s.events()
        assert "Worker worker:m:1:0-s0 is LOST: The process is gone." in events
        assert "Starting worker worker:m:1:0-s1 on n0 (lost)" in events

    play(scene)


def test_a_death_that_is_heard_twice_is_told_once() -> None:
    """The pending call and a probe both fail."""

    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=20))
        for process in s.world.alive():
            process.kill()
        await s.until(lambda: not s.supervisor._fleet.workers)
        events = await s.events()
        assert sum("is LOST" in text for text in events) == 20

    play(scene, probe_s=0.001, tick_s=0.2)


def test_a_process_that_cannot_be_started_is_tried_again_with_a_pause() -> None:
    async def scene(s: Scene) -> None:
        s.world.start_error = RuntimeError("no more processes")
        await s.launch(make_wanted())
        await s.until(lambda: s.supervisor._fleet.losses)
        pauses = []
        for count in range(1, 5):
            await s.until(lambda count=count: [x for x in s.supervisor._fleet.losses.values() if x.count == count])
            (loss,) = s.supervisor._fleet.losses.values()
            pauses.append(round(loss.not_before - s.world.clock()))
            await s.ticks()
            assert len(s.world.started) == count
            s.world.clock_ahead += loss.not_before - s.world.clock()
        assert pauses == [1, 2, 4, 8]
        assert "Worker worker:m:1:0-s0 is LOST: could not be started: no more processes" in await s.events()
        s.world.start_error = None
        (loss,) = s.supervisor._fleet.losses.values()
        s.world.clock_ahead += 20
        await s.state(M.READY)

    play(scene)


def test_one_that_cannot_be_started_does_not_stop_the_others() -> None:
    async def scene(s: Scene) -> None:
        s.world.start_error = RuntimeError("not now")
        await s.launch(make_wanted("a"))
        await s.until(lambda: s.supervisor._fleet.losses)
        s.world.start_error = None
        await s.ready(make_wanted("b"))

    play(scene)


def test_a_worker_that_never_answers_is_replaced_at_the_deadline() -> None:
    async def scene(s: Scene) -> None:
        await starting_mute(s)
        first = s.world.the()
        s.world.answers = True
        await s.ticks()
        assert first.alive
        s.world.clock_ahead += 61
        await s.until(lambda: not first.alive)
        s.world.clock_ahead += 2
        await s.state(M.READY)

    play(scene)


def test_a_silent_worker_is_used_only_when_no_other_is_left() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=2))
        first, second = s.world.alive()
        first.answers = False
        await s.until(lambda: s.world.routed() == {str(second.name)})
        assert first.alive
        second.answers = False
        await s.until(lambda: s.world.routed() == {str(first.name), str(second.name)})
        first.answers = True
        await s.until(lambda: s.world.routed() == {str(first.name)})

    play(scene)


def test_a_silent_worker_is_replaced_at_the_deadline() -> None:
    async def scene(s: Scene) -> None:
        await silent(s)
        first = s.world.the()
        s.world.clock_ahead += 61
        await s.until(lambda: not first.alive)
        await s.until(lambda: s.world.ended_by_pid == [("n0", first.pid)])
        s.world.clock_ahead += 2
        await s.state(M.READY)

    play(scene)


def test_a_worker_that_answers_but_does_not_compute_is_replaced() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        first = s.world.the()
        first.computes = False
        await s.until(lambda: "probe" in " ".join(w.reason for w in s.supervisor._fleet.workers.values()))
        # Its reports go on saying that it is ready.
        first.commands.clear()
        await s.until(lambda: first.commands.count("report") > 3)
        s.world.clock_ahead += 61
        await s.until(lambda: not first.alive)
        s.world.clock_ahead += 2
        await s.until(s.world.alive)

    play(scene)


def test_workers_of_a_node_that_is_gone_are_replaced_on_another() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        first = s.world.the()
        s.world.there = [make_node("n1")]
        await s.until(lambda: not first.alive)
        assert "Worker worker:m:1:0-s0 is LOST: its node is gone" in await s.events()
        s.world.clock_ahead += 1.1
        await s.state(M.READY)
        assert (await s.supervisor.status("m")).workers[0].node == "n1"

    play(scene)


def test_when_many_nodes_vanish_nothing_is_started_for_a_while() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=4))
        s.world.there = [make_node("n0")]
        await s.until(lambda: len(s.world.alive()) == 1)
        s.world.clock_ahead += 10
        await s.ticks()
        assert (await s.supervisor.status("m")).reason == "many nodes vanished at once; waiting for them"
        s.world.clock_ahead += 11
        await s.state(M.READY)

    play(scene, *(make_node(f"n{i}") for i in range(4)), storm_hold_s=20)


def test_stopping_ends_at_once_whatever_has_just_happened() -> None:
    async def scene(s: Scene) -> None:
        for uid in "abc":
            await s.launch(make_wanted(uid))
            await asyncio.wait_for(s.supervisor.stop(), 1)
            await s.replace_supervisor()
            await s.state(M.READY, uid)

    play(scene)


def test_one_bad_tick_is_not_the_last() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("a"))
        there, s.world.there = s.world.there, None  # type: ignore[assignment]
        await s.until(lambda: "a tick failed" in s.complaints.told)
        s.world.there = there
        await s.ready(make_wanted("b"))
        s.complaints.told.clear()

    play(scene)


# --------------------------------------------------------------------------------------- a supervisor that is new


def test_a_new_supervisor_adopts_the_same_workers() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("a", replica=2), make_wanted("b"))
        before = await s.supervisor.watch(-1, 0)
        started, processes = list(s.world.started), s.world.alive("a") + s.world.alive("b")
        await s.replace_supervisor()
        await s.state(M.READY, "a")
        after = await s.supervisor.watch(before.version, 0)
        assert after.version > before.version
        assert {uid: m.workers for uid, m in after.models.items()} == {
            uid: m.workers for uid, m in before.models.items()
        }
        assert after.handles == before.handles
        await s.ticks()
        assert s.world.started == started and all(process.alive for process in processes)
        assert [text for text in await s.events("b") if "Adopted" in text]

    play(scene)


def test_a_new_supervisor_tells_nobody_anything_before_it_has_looked() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        s.world.find_errors = [ConnectionError("not yet")] * 3
        await s.replace_supervisor()
        snapshot = await s.supervisor.watch(-1, 0)
        assert [route.worker for route in snapshot.models["m"].workers] == s.world.started

    play(scene)


def test_orders_of_an_older_supervisor_are_refused() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        process, old_epoch = s.world.the(), s.world.the().epoch
        await s.replace_supervisor()
        await s.until(lambda: process.epoch > old_epoch)
        with pytest.raises(errors.StaleEpoch):
            await process.control("drain", old_epoch, timeout_s=1)

    play(scene)


def test_a_death_while_nobody_looked_is_found() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=2))
        await s.stop()
        s.world.alive()[0].kill()
        await s.replace_supervisor()
        await s.state(M.READY)
        assert len(s.world.alive()) == 2

    play(scene)


def test_a_worker_that_nobody_wants_is_ended_by_a_new_supervisor() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        await s.stop()
        s.store.delete("wish", "m")
        await s.replace_supervisor()
        await s.nothing_left()

    play(scene)


def test_a_worker_of_an_older_generation_gives_way_after_a_restart() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        old = s.world.the()
        await s.stop()
        s.store.put("wish", "m", make_wanted(generation=5).model_dump(mode="json"))
        await s.replace_supervisor()
        await s.until(lambda: not old.alive)
        assert s.world.the().name.generation == 5

    play(scene)


def test_a_worker_that_was_loading_goes_on_after_a_restart() -> None:
    async def scene(s: Scene) -> None:
        await loading(s)
        process = s.world.the()
        await s.replace_supervisor()
        assert (await s.supervisor.status("m")).state == M.LOADING
        process.load()
        await s.state(M.READY)
        assert s.world.the() is process

    play(scene)


def test_a_worker_that_was_never_told_to_load_does_not_keep_its_place_after_a_restart() -> None:
    """The supervisor ended between making the process and its first order."""

    async def scene(s: Scene) -> None:
        await s.supervisor._recovered.wait()
        await s.stop()
        wanted = make_wanted()
        s.store.put("wish", "m", wanted.model_dump(mode="json"))
        await s.world.start(WorkerName("m", 1, 0, "orphan"), wanted, Placement("n0", Claim(2**30)))
        await s.replace_supervisor()
        await s.until(lambda: s.supervisor._fleet.workers or s.supervisor._fleet.losses)
        s.world.clock_ahead += 2
        await s.state(M.READY)
        assert len(s.world.alive()) == 1

    play(scene)


def test_a_worker_that_does_not_answer_is_ended_before_it_is_replaced() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        mute = s.world.the()
        mute.answers = False
        await s.stop()
        await s.replace_supervisor()
        await s.until(lambda: mute.commands.count("describe") > 1)
        assert mute.alive
        s.world.clock_ahead += 16
        await s.state(M.READY)
        assert not mute.alive and len(s.world.alive()) == 1

    play(scene)


def test_a_worker_that_failed_is_not_adopted() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        process = s.world.the()
        await s.stop()
        process.tell(phase="failed", error=errors.LoadFailed("no"))
        await s.replace_supervisor()
        await s.state(M.READY)
        assert not process.alive

    play(scene)


def test_a_worker_that_cannot_be_understood_does_not_stop_a_new_supervisor() -> None:
    """One of another version, say: what it answers cannot be read."""

    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("a"), make_wanted("b"))
        s.world.the("a").describe_error = errors.InferenceFailed("ValidationError: no such field")
        await s.replace_supervisor()
        async with asyncio.timeout(1):
            await s.state(M.READY, "b")

    play(scene)


# ------------------------------------------------------------------------------------------------ a full disk


def test_on_a_full_disk_what_dies_is_replaced() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=2))
        with unwritable(s.store):
            dead = s.world.alive()[0]
            dead.kill()
            await s.until(lambda: not s.supervisor._fleet.workers.get(str(dead.name)))
            s.world.clock_ahead += 1.1
            await s.state(M.READY)
            assert len(s.world.alive()) == 2

    play(scene)


def test_on_a_full_disk_a_new_supervisor_comes_up_and_is_obeyed() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        process, old_epoch = s.world.the(), s.world.the().epoch
        with unwritable(s.store):
            s.world.wall_clock_ahead = 5
            version = s.supervisor._snapshots.version
            await s.replace_supervisor()
            await s.state(M.READY)
            await s.until(lambda: process.epoch > old_epoch)
            assert s.supervisor._snapshots.version > version
            process.kill()
            await s.until(lambda: not s.supervisor._fleet.workers)
            s.world.clock_ahead += 1.1
            await s.state(M.READY)
        epoch = s.world.the().epoch
        await s.until(lambda: s.store.number("epoch") == epoch)
        s.world.wall_clock_ahead = -3600
        await s.replace_supervisor()
        await s.until(lambda: s.world.the().epoch > epoch)

    play(scene)


@pytest.mark.parametrize(
    "change",
    [
        lambda supervisor: supervisor.launch(make_wanted("other"), True),
        lambda supervisor: supervisor.scale("m", 2),
        lambda supervisor: supervisor.terminate("m"),
        lambda supervisor: supervisor.apply([make_wanted(options={"steps": 2})], False, False),
        lambda supervisor: supervisor.create_key("k", ["infer"], None),
    ],
    ids=["launch", "scale", "terminate", "apply", "create_key"],
)
def test_what_cannot_be_written_down_is_refused_and_not_done(change: Callable[[Supervisor], Any]) -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        with unwritable(s.store):
            with pytest.raises(errors.OutOfSpace):
                await change(s.supervisor)
            await s.ticks()
            assert [
                (status.uid, status.generation, status.replica) for status in await s.supervisor.all_statuses()
            ] == [("m", 1, 1)]
            assert len(s.world.started) == 1 and s.world.the().alive
            assert await s.supervisor.all_keys() == []
        await change(s.supervisor)

    play(scene)


class SlowStore(SqliteStore):
    """A disk that takes a wish when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def put(self, kind: Kind, key: str, value: Any) -> None:
        if kind == "wish":
            self.gate.wait(PATIENCE_S)
        super().put(kind, key, value)


def test_a_slow_disk_holds_up_who_changes_something_and_nobody_else() -> None:
    store = SlowStore()

    async def scene(s: Scene) -> None:
        launches = [asyncio.ensure_future(s.launch(make_wanted(uid))) for uid in ("a", "a", "b")]
        await s.ticks()
        assert (await s.supervisor.watch(-1, 0)).models == {} and await s.supervisor.all_statuses() == []
        assert not s.world.started and not any(launch.done() for launch in launches)
        store.gate.set()
        assert [(await launch).uid for launch in launches] == ["a", "a", "b"]
        await s.state(M.READY, "a")
        assert len(s.world.alive("a")) == 1

    play(scene, store=store)


def test_a_change_whose_caller_goes_away_is_made_whole() -> None:
    store = SlowStore()

    async def scene(s: Scene) -> None:
        launch = asyncio.ensure_future(s.launch(make_wanted()))
        await s.ticks()
        launch.cancel()
        store.gate.set()
        await s.until(lambda: store.get("wish", "m"))
        await s.until(s.world.alive)
        await s.state(M.READY)

    play(scene, store=store)


class Filling(SqliteStore):
    free = 10**10

    def free_bytes(self) -> int:
        return self.free


def test_a_disk_that_fills_up_is_told_once_while_there_is_room_for_it() -> None:
    store = Filling()

    async def scene(s: Scene) -> None:
        await s.ticks()
        assert await s.supervisor.events("") == []
        store.free = 499_000_000
        await s.until(lambda: s.supervisor._free_bytes == store.free)
        await s.ticks()
        store.free = 10**10
        await s.until(lambda: len(store.events("")) == 2)
        warning, over = await s.supervisor.events("")
        assert (warning.level, over.level) == ("WARNING", "INFO")
        assert warning.text.startswith("Only 499 MB are free")
        assert await s.supervisor.free_bytes() == 10**10
        assert b"cluster_disk_free_bytes 1e+10" in page(await s.supervisor.samples("i", []))

    play(scene, store=store)


# ----------------------------------------------------------------------------------------- what cannot be read


def of_a_newer_version(s: Scene, **changes: Any) -> None:
    """What a later version would have stored, while its workers run."""
    s.store.put("wish", "m", {**s.store.get("wish", "m"), **(changes or {"colour": "red"})})


NEWER = "The wish is of a newer version, this one cannot read colour: its workers go on as they are"


def test_a_wish_that_cannot_be_read_keeps_its_workers_and_its_route() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=2))
        processes, routed = s.world.alive(), s.world.routed()
        of_a_newer_version(s)
        before = s.store.get("wish", "m")
        await s.replace_supervisor()
        status = await s.state(M.DEGRADED)
        assert status.reason.startswith(NEWER) and (status.ready, status.replica) == (2, 2)
        assert s.world.routed() == routed == {str(process.name) for process in processes}
        await s.ticks()
        for process in processes:
            process.answers = False
        s.world.clock_ahead += 1000
        await s.ticks()
        assert s.world.alive() == processes and len(s.world.started) == 2
        assert s.world.ended_by_pid == []
        assert not {"drain"} & {command for process in processes for command in process.commands}
        for process in processes:
            process.answers = True
        processes[0].kill()
        await s.until(lambda: s.world.routed() == {str(processes[1].name)})
        s.world.clock_ahead += 1000
        await s.ticks()
        assert len(s.world.started) == 2 and s.store.get("wish", "m") == before
        processes[1].kill()
        status = await s.state(M.WAITING)
        assert status.reason.startswith(NEWER)
        assert not (await s.supervisor.watch(-1, 0)).models["m"].recovering

    play(scene)


@pytest.mark.parametrize("error", [errors.InferenceFailed("AttributeError: no such class"), errors.Unavailable("?")])
def test_a_worker_whose_answers_cannot_be_read_is_left_as_it_is(error: errors.ClusterError) -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=2))
        processes, routed = s.world.alive(), s.world.routed()
        of_a_newer_version(s)
        for process in processes:
            process.describe_error = error
        await s.stop()
        s.world.clock_ahead += 1
        await s.replace_supervisor()
        await s.until(lambda: all("describe" in process.commands for process in processes))
        s.world.clock_ahead += 16
        assert (await s.state(M.DEGRADED)).ready == 2
        assert s.world.routed() == routed
        await s.ticks()
        assert [worker.pid for worker in (await s.supervisor.status("m")).workers] == [p.pid for p in processes]
        assert s.world.alive() == processes
        processes[0].kill()
        await s.until(lambda: s.world.routed() == {str(processes[1].name)})
        await s.supervisor.terminate("m")
        await s.until(lambda: "drain" in processes[1].commands)
        s.world.clock_ahead += 61
        await s.nothing_left()

    play(scene)


def test_what_cannot_be_read_can_be_terminated_and_is_not_changed() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        of_a_newer_version(s)
        await s.replace_supervisor()
        await s.state(M.DEGRADED)
        for change in (s.launch(make_wanted()), s.launch(make_wanted(), False), s.supervisor.scale("m", 2)):
            with pytest.raises(errors.Conflict, match="m cannot be changed. The wish is of a newer version"):
                await change
        assert changes(await s.supervisor.apply([make_wanted()], prune=True, dry_run=False)) == {"m": "same"}
        await s.ticks()
        assert s.world.the().name.generation == 1 and s.store.get("wish", "m")["colour"] == "red"
        await s.supervisor.terminate("m")
        await s.nothing_left()
        await s.ready()

    play(scene)


def test_what_cannot_be_read_is_replaced_without_a_gap_by_what_is_declared_in_its_place() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        old = s.world.the()
        of_a_newer_version(s)
        await s.replace_supervisor()
        await s.state(M.DEGRADED)
        s.world.loads = False
        found = await s.supervisor.apply([make_wanted(replica=2)], prune=False, dry_run=False)
        assert changes(found) == {"m": "scale"}
        new = await s.until(lambda: [p for p in s.world.alive() if p is not old][1:] and s.world.alive()[1:])
        await s.ticks()
        assert s.world.routed() == {str(old.name)}
        for process in new:
            process.load()
        await s.state(M.READY)
        await s.until(lambda: not old.alive)

    play(scene)


def test_a_wish_that_is_not_even_json_is_shown_as_damaged(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    store.put("wish", "m", make_wanted().model_dump(mode="json"))
    with sqlite3.connect(tmp_path / "store.db") as db:
        db.execute("INSERT INTO wishes VALUES ('wish', 'broken', '{')")
    db.close()

    async def scene(s: Scene) -> None:
        async with asyncio.timeout(1):
            await s.state(M.READY)
        status = await s.state(M.WAITING, "broken")
        assert status.reason == "The stored wish is damaged; terminate the model and launch it again."
        await s.supervisor.terminate("broken")
        assert [status.uid for status in await s.supervisor.all_statuses()] == ["m"]

    play(scene, store=store)


def test_what_runs_is_not_ended_for_a_store_that_lost_its_wish() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("kept"), make_wanted("lost", replica=2, options={"steps": 3}))
        await s.supervisor.scale("lost", 3)
        await s.state(M.READY, "lost")
        before, generation = s.world.alive("lost"), (await s.supervisor.status("lost")).generation
        s.store._db.execute("DELETE FROM wishes WHERE key='lost' OR kind='number'")
        await s.replace_supervisor(is_salvaged=True)
        status = await s.state(M.READY, "lost")
        assert (status.ready, status.replica, status.wanted.spec.options) == (3, 3, {"steps": 3})
        await s.ticks()
        assert s.world.alive("lost") == before
        assert (await s.launch(make_wanted("new"))).generation > generation
        await s.replace_supervisor()
        assert (await s.state(M.READY, "lost")).replica == 3
        await s.supervisor.terminate("lost")
        await s.until(lambda: not s.world.alive("lost"))
        await s.replace_supervisor(is_salvaged=True)
        assert {status.uid for status in await s.supervisor.all_statuses()} == {"kept", "new"}

    play(scene)


def test_a_damaged_wish_keeps_its_workers_which_know_what_they_are() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        before = (await s.supervisor.watch(-1, 0)).models["m"]
        s.store._db.execute("UPDATE wishes SET value='{' WHERE kind='wish'")
        await s.replace_supervisor()
        await s.state(M.DEGRADED)
        after = (await s.supervisor.watch(-1, 0)).models["m"]
        assert (after.workers, after.abilities, after.aliases) == (before.workers, before.abilities, before.aliases)

    play(scene)


def test_a_key_that_cannot_be_read_is_left_out() -> None:
    store = SqliteStore()
    store.put("key", "k", {"id": "k", "name": "of a newer version", "digest": "d", "scopes": ["infer"], "until": 9})

    async def scene(s: Scene) -> None:
        assert await s.supervisor.all_keys() == []

    play(scene, store=store)


def test_a_registration_that_cannot_be_read_is_left_out() -> None:
    store = SqliteStore()
    entry = Entry(name="mine", type="embedding", family="f", sources=(Source(hub="local", id="/m"),), builtin=False)
    store.put("entry", "embedding/mine", entry.model_dump(mode="json"))
    store.put("entry", "embedding/newer", {**entry.model_dump(mode="json"), "name": "newer", "colour": "red"})

    async def scene(s: Scene) -> None:
        assert [found.name for found in await s.supervisor.registered()] == ["mine"]

    play(scene, store=store)


# --------------------------------------------------------------------------------------------------- watching


def test_watching_waits_for_what_is_new() -> None:
    async def scene(s: Scene) -> None:
        first = await s.supervisor.watch(-1, PATIENCE_S)
        same = await s.supervisor.watch(first.version, 0.01)
        assert same.version == first.version
        watcher = asyncio.create_task(s.supervisor.watch(first.version, PATIENCE_S))
        await s.launch(make_wanted())
        assert (await watcher).models["m"].state == M.LOADING

    play(scene)


def test_the_table_stays_the_same_while_nothing_changes() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        await s.ticks()
        version = (await s.supervisor.watch(-1, 0)).version
        status = await s.supervisor.status("m")
        await s.ticks(5)
        assert (await s.supervisor.watch(-1, 0)).version == version
        assert (await s.supervisor.status("m")).version == status.version

    play(scene)


def test_a_status_can_be_followed_to_its_end() -> None:
    async def scene(s: Scene) -> None:
        s.world.loads = False
        status = await s.launch(make_wanted())
        seen = [status.progress]
        process = (await s.until(s.world.alive))[0]
        await s.until(lambda: process.board.value.phase == "loading")
        for done in (0.3, 0.6):
            process.tell(progress=LoadProgress("loading", done))
            while status.progress < done:
                status = await s.supervisor.status("m", status.version, PATIENCE_S)
            seen.append(status.progress)
        process.load()
        while status.state != M.READY:
            status = await s.supervisor.status("m", status.version, PATIENCE_S)
        assert seen == [0.0, 0.3, 0.6]

    play(scene)


def test_a_status_that_does_not_change_is_told_after_the_wait() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        await s.ticks()
        status = await s.supervisor.status("m")
        assert await s.supervisor.status("m", status.version, 0.02) == status
        assert await s.supervisor.status("m", status.version - 1, PATIENCE_S) == status

    play(scene)


def test_who_follows_a_model_learns_that_it_was_terminated() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        await s.ticks()
        status = await s.supervisor.status("m")
        follower = asyncio.create_task(s.supervisor.status("m", status.version, PATIENCE_S))
        await asyncio.sleep(0)
        await s.supervisor.terminate("m")
        with pytest.raises(errors.UnknownUid):
            await follower

    play(scene)


# ------------------------------------------------------------------------------------------- keys, registrations


def test_keys_reach_whoever_watches_at_once() -> None:
    async def scene(s: Scene) -> None:
        first = await s.supervisor.watch(-1, 0)
        watcher = asyncio.create_task(s.supervisor.watch(first.version, PATIENCE_S))
        await asyncio.sleep(0)
        key, _ = await s.supervisor.create_key("ci", ["infer"], None)
        second = await watcher
        assert second.keys == (key,)
        watcher = asyncio.create_task(s.supervisor.watch(second.version, PATIENCE_S))
        await asyncio.sleep(0)
        await s.supervisor.revoke_key(key.id)
        assert (await watcher).keys == ()

    play(scene, tick_s=60)


def test_keys_survive_a_restart_and_revoked_ones_do_not() -> None:
    async def scene(s: Scene) -> None:
        kept, _ = await s.supervisor.create_key("kept", ["infer"], ["m"])
        gone, _ = await s.supervisor.create_key("gone", ["admin"], None)
        await s.supervisor.revoke_key(gone.id)
        await s.replace_supervisor()
        assert (await s.supervisor.watch(-1, 0)).keys == (kept,)
        with pytest.raises(errors.BadRequest):
            await s.supervisor.revoke_key(gone.id)

    play(scene)


def test_registrations_are_kept_until_they_are_withdrawn() -> None:
    entry = Entry(name="mine", type="embedding", family="f", sources=(Source(hub="local", id="/m"),), builtin=False)

    async def scene(s: Scene) -> None:
        await s.supervisor.register(entry)
        await s.replace_supervisor()
        assert await s.supervisor.registered() == [entry]
        await s.supervisor.unregister("embedding", "mine")
        assert await s.supervisor.registered() == []
        with pytest.raises(errors.UnknownModel):
            await s.supervisor.unregister("embedding", "mine")

    play(scene)


# ------------------------------------------------------------------------------------------------------- views


def test_events_are_told_after_the_model_is_gone() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        await s.supervisor.terminate("m")
        await s.nothing_left()
        assert "Terminate model" in await s.events()

    play(scene)


def test_logs_are_those_of_the_workers() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=2))
        first, second = map(str, (p.name for p in s.world.alive()))
        assert await s.supervisor.logs("m", 7) == [
            *(f"{first} says {n}" for n in (3, 4)),
            *(f"{second} says {n}" for n in range(5)),
        ]
        s.world.alive()[0].answers = False
        assert f"{first}: It does not answer." in await s.supervisor.logs("m", 100)

    play(scene)


def test_nodes_say_what_is_claimed_of_them() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("a", claim_gib=2), make_wanted("b", n_gpu=0.5))
        found = {node.id: (claim, workers) for node, claim, workers in await s.supervisor.nodes()}
        assert found == {"n0": (Claim(2 * 2**30), 1), "n1": (Claim(0, ((0, 0.5),)), 1)}

    play(scene, make_node("n0", memory_gib=32), make_node("n1", gpus=1))


def test_the_cores_of_a_node_are_shared_by_its_workers() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("a"))
        await s.until(lambda: s.world.the("a").threads == 8)
        await s.ready(make_wanted("b"), make_wanted("c", n_cpu=1))
        await s.until(lambda: [s.world.the(uid).threads for uid in "abc"] == [2, 2, 1])
        await s.supervisor.terminate("b")
        await s.until(lambda: s.world.the("a").threads == 4)

    play(scene, make_node(cpus=8))


def test_samples_of_workers_ingresses_and_the_supervisor_are_one_page() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        text = page(await s.supervisor.samples("i0", [])).decode()
        assert 'cluster_replicas_wanted{model="m"} 1.0' in text
        assert 'cluster_model_state{model="m",state="READY"} 1.0' in text
        assert f'cluster_queue_items{{model="m",replica="{s.world.started[0]}"}}' in text

    play(scene)


# ------------------------------------------------------------------------------------------- with real workers


class Hosted:
    """A real worker, without a process around it."""

    def __init__(self, worker: Worker) -> None:
        self.remote = self.worker = worker
        self.alive = True

    async def control(self, method: str, *args: Any, timeout_s: float) -> Any:
        if not self.alive:
            raise errors.WorkerLost("The process is gone.", retry_after_s=5.0)
        return await asyncio.wait_for(getattr(self.worker, method)(*args), timeout_s)

    async def probe(self, timeout_s: float) -> float:
        return await self.worker.probe()

    def kill(self) -> None:
        self.alive = False


class Host(World):
    """Holds real workers, on the event loop of the supervisor."""

    def __init__(self, folder: Path) -> None:
        super().__init__(make_node())
        self.folder = folder
        self.hosted: dict[WorkerName, Hosted] = {}

    async def start(self, name: WorkerName, wanted: Wanted, placement: Placement) -> Hosted:  # type: ignore[override]
        wanted = wanted.model_copy(update={"source": wanted.source.model_copy(update={"id": str(self.folder)})})
        settings = Settings(home=self.folder)
        found = self.hosted[name] = Hosted(Worker(str(name), wanted, placement.claim, settings))
        return found

    async def find(self) -> Mapping[WorkerName, Hosted]:  # type: ignore[override]
        return {name: hosted for name, hosted in self.hosted.items() if hosted.alive}


@pytest.fixture
def root_logger() -> Iterator[None]:
    """As it was before; every worker listens to it."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)


def test_real_workers_are_launched_adopted_and_drained(tmp_path: Path, root_logger: None) -> None:
    async def whole() -> None:
        host = Host(tmp_path)
        async with asyncio.timeout(PATIENCE_S * 4), Scene(host, SqliteStore()) as s:
            await s.ready(make_wanted(replica=2))
            status = await s.state(M.READY)
            assert all(worker.claim_bytes not in (0, 2**30) for worker in status.workers)  # measured
            assert status.about["pid"]
            workers = [hosted.worker for hosted in host.hosted.values()]
            await s.replace_supervisor()
            await s.state(M.READY)
            assert [hosted.worker for hosted in host.hosted.values()] == workers
            with pytest.raises(errors.StaleEpoch):
                await workers[0].drain(1)
            assert await s.supervisor.logs("m", 100)
            await s.supervisor.terminate("m")
            await s.until(lambda: not s.supervisor._fleet.workers)
            assert [(await worker.describe())[2].phase for worker in workers] == ["drained"] * 2
            assert not any(hosted.alive for hosted in host.hosted.values())

    asyncio.run(whole())


def test_a_real_worker_that_cannot_load_is_told_with_its_log(tmp_path: Path, root_logger: None) -> None:
    async def whole() -> None:
        async with asyncio.timeout(PATIENCE_S * 4), Scene(Host(tmp_path), SqliteStore()) as s:
            await s.launch(make_wanted(options={"load_error": "no such layer"}))
            status = await s.state(M.FAILED)
            assert status.reason == "m could not be loaded: ValueError: no such layer"
            assert "ValueError: no such layer" in status.log_tail

    asyncio.run(whole())


# --------------------------------------------------------------------------------------------- memory runs out

GB = 10**9
PLENTY, LITTLE = Memory(24 * GB, 12 * GB), Memory(24 * GB, 1 * GB, largest=("hog", 7, 9 * GB))


def test_when_memory_runs_out_one_worker_goes_says_why_and_comes_back_when_there_is_room() -> None:
    async def scene(s: Scene) -> None:
        await s.ready(make_wanted("small"), make_wanted("grown"))
        for uid, held in (("small", 1 * GB), ("grown", 5 * GB)):
            s.world.the(uid).tell(memory=replace(PLENTY, own_bytes=held))
        await s.ticks()
        (small, grown) = s.world.the("small"), s.world.the("grown")
        small.tell(memory=replace(LITTLE, own_bytes=1 * GB))
        await s.until(lambda: not grown.alive)
        assert s.world.ended_by_pid == [(grown.board.value.node_id, grown.pid)]
        s.world.clock_ahead += 30  # all pauses after a loss are over
        await s.ticks()
        (waiting,) = [status for status in await s.supervisor.all_statuses() if status.uid == "grown"]
        assert (
            waiting.state == M.WAITING
            and "0.0 GiB left for models, 1.0 GiB asked; of other processes hog (pid 7)" in waiting.reason
        )
        assert small.alive and s.world.alive("grown") == []
        (text,) = [text for text in await s.events("grown") if "HOST_OOM" in text]
        assert "1.0 GB of 24.0 GB memory were left on" in text and "held 5.0 GB" in text
        assert "hog (pid 7) holds most, 9.0 GB: end it" in text
        small.tell(memory=replace(PLENTY, own_bytes=1 * GB))
        await s.state(M.READY, uid="grown")

    play(scene, make_node("n0"))


def test_a_worker_that_the_kernel_killed_for_memory_is_told_as_such() -> None:
    async def scene(s: Scene) -> None:
        s.world.reading = ("n0", replace(PLENTY, oom_kills=3))
        await s.ready()
        await s.ticks()
        s.world.reading = ("n0", replace(PLENTY, oom_kills=4))
        s.world.the().kill()
        await s.until(lambda: len(s.world.started) == 2)
        (text,) = [text for text in await s.events() if "is LOST" in text]
        assert "HOST_OOM: its process was killed" in text

    play(scene, make_node("n0"))


def test_a_worker_that_dies_with_memory_to_spare_did_not_die_of_it() -> None:
    async def scene(s: Scene) -> None:
        s.world.reading = ("n0", replace(PLENTY, oom_kills=3))
        await s.ready()
        await s.ticks()
        s.world.the().kill()
        await s.until(lambda: len(s.world.started) == 2)
        assert not [text for text in await s.events() if "HOST_OOM" in text]

    play(scene, make_node("n0"))


# ------------------------------------------------------------------------------------------- what ingresses tell


def test_poison_is_told_to_every_ingress_and_the_next_worker_starts_at_once() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        before = s.world.the()
        before.kill()
        await s.supervisor.poisoned("m", "f1", [str(before.name)])
        assert s.supervisor._snapshots.value.poison == (("m", "f1"),)
        await s.state(M.READY)
        assert s.supervisor._fleet.losses == {}
        assert any("A request ended 1 workers" in event.text for event in await s.supervisor.events("m"))

    play(scene)


def test_a_worker_that_answers_nothing_at_all_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.control.supervisor.HUNG_S", 0.05)

    async def scene(s: Scene) -> None:
        await s.ready(make_wanted(replica=2))
        hung = s.world.alive()[0]
        hung.answers = False
        await s.supervisor.suspect(str(hung.name))
        await s.until(lambda: s.world.ended_by_pid)
        assert s.world.ended_by_pid == [(hung.board.value.node_id, hung.pid)]
        hung.kill()
        await s.state(M.READY)

    play(scene)


def test_a_suspect_that_answers_is_ready_again_without_waiting_for_its_next_probe() -> None:
    async def scene(s: Scene) -> None:
        await s.ready()
        await s.supervisor.suspect(str(s.world.the().name))
        await s.until(lambda: [w for w in s.supervisor._fleet.workers.values() if w.state == S.READY])
        assert s.world.ended_by_pid == []

    play(scene, probe_s=60)
