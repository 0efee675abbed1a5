"""Plain classes made Ray actors: names, options, calls, and errors unwrapped in one place.

The only module of the control plane that imports Ray. Workers and the supervisor are detached and named, so that
whoever made them may die; workers never restart by themselves, because the supervisor is their one owner.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import os
import secrets
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Collection, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import psutil
import ray
import uvloop
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ActorUnschedulableError,
    GetTimeoutError,
    RayError,
    RaySystemError,
    RayTaskError,
)
from ray.experimental import internal_kv
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import accelerators, environment, errors, heartbeat, node_memory, pipe, pressure
from cluster.family import load_family
from cluster.heartbeat import Heart
from cluster.place import Place
from cluster.placement import Placement
from cluster.settings import Settings
from cluster.spec import Call, Claim, Memory, Node, Source, View, Wanted, WorkerName
from cluster.store import Store
from cluster.store_file import check_store
from cluster.supervisor import Handle, Supervisor
from cluster.weights import locate
from cluster.worker import Outcome, Worker

log = logging.getLogger("cluster.actors")

SUPERVISOR = "supervisor"
#: Ray gives the head node this resource; whoever asks for some of it runs there.
HEAD_RESOURCE = "node:__internal_head__"
#: Calls of one actor that Ray lets in at once; our own queues refuse long before.
MANY = 10_000
#: Added to a worker's size where the kernel chooses whom it ends: before the supervisor, the ingress and Ray itself.
OOM_SCORE = 500
#: How long a worker may take to open its socket, and how long an ingress leaves one alone that it could not reach.
SOCKET_S = 5.0
#: Between two tries of a supervisor to open its store.
STORE_RETRY_S = 1.0
#: Longest that a dry run waits for a node to look for a folder.
LOOK_S = 10.0
#: How long an ingress waits to hear that what it cancelled is dropped.
CANCEL_S = 5.0

T = TypeVar("T")


def unwrap(error: BaseException) -> errors.ClusterError:
    """What went wrong at the other end, as the class it was raised as."""
    if isinstance(error, errors.ClusterError) and not isinstance(error, RayTaskError):
        return error
    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, errors.ClusterError):
            return cause
        return errors.InferenceFailed(f"{type(cause).__name__}: {cause}")
    if isinstance(error, ActorDiedError):
        return errors.WorkerLost(f"The process is gone: {_first_lines(error)}", 5.0)
    if isinstance(error, ActorUnschedulableError):
        return errors.WorkerLost(f"Ray cannot place it: {_first_lines(error)}", 5.0)
    if isinstance(error, RaySystemError) and error.traceback_str:
        return errors.InferenceFailed(f"The answer cannot be read: {_first_lines(error)}")
    if isinstance(error, (ActorUnavailableError, GetTimeoutError, TimeoutError)):
        return errors.Unavailable("It does not answer.", 5.0)
    return errors.Unavailable(f"{type(error).__name__}: {_first_lines(error)}", 5.0)


def _first_lines(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


async def answer_of(ref: Any, timeout_s: float) -> Any:
    """Waits for a call; raises our own errors only."""
    try:
        # Awaiting the reference itself is a third cheaper than a wrapped future of it.
        async with asyncio.timeout(timeout_s):
            return await ref
    except (RayError, TimeoutError) as error:
        raise unwrap(error) from None


# ------------------------------------------------------------------------------------------------ workers


class WorkerActor(Worker):
    """A worker in its own process; its environment is set before any model library is imported."""

    def __init__(
        self, name: str, wanted: Wanted, claim: Claim, settings: Settings, cards: Sequence[str], device: str
    ) -> None:
        # Ray sets this to 1 for actors that reserve no core; the share of the node's cores is set explicitly later.
        os.environ.pop("OMP_NUM_THREADS", None)
        envs, ignored = environment.split(wanted.spec.envs, settings.allow_envs)
        os.environ.update(envs)
        # Ray leaves every card visible to an actor that asked for none, and picks the card itself where one was asked;
        # placement has decided, here it is carried out. Ray's own number keeps its ledger equal to ours.
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(cards)
        if device == "xpu":
            os.environ["ZE_AFFINITY_MASK"] = ",".join(cards)
        os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1", TOKENIZERS_PARALLELISM="false")
        # Threads that wait for each other stay awake for 20 microseconds: to fall asleep between two layers takes
        # longer than many a layer does, and who stays awake for milliseconds takes the cores from the ingress.
        # What streams computes for seconds in one team of threads, with more to do in between: it keeps the usual 3 ms.
        if not hasattr(load_family(wanted.family), "stream"):
            os.environ.setdefault("OMP_WAIT_POLICY", "ACTIVE")
            os.environ.setdefault("GOMP_SPINCOUNT", "2000")
        node_memory.go_first(OOM_SCORE)
        super().__init__(name, wanted, claim, settings, device)
        if ignored:
            log.warning("%s sets no %s: CLUSTER_ALLOW_ENVS does not name it", name, ", ".join(ignored))
        # Inference has a loop of its own: what comes by the socket and what Ray brings meet there.
        self._inference = uvloop.new_event_loop()
        threading.Thread(target=self._inference.run_forever, name="inference", daemon=True).start()
        self._post(socket=self._listen(settings))
        threading.Thread(target=self._watch_memory, name="memory", daemon=True).start()

    def _watch_memory(self) -> None:
        """Tells of this process's memory and of what the node has left, the more often the less that is."""
        asked = self._settings.memory_floor_bytes
        meter = node_memory.Meter(self._settings.home, asked)
        while True:
            memory = meter.read()
            floor = pressure.floor_of(memory.total_bytes, asked)
            if pressure.is_news(self._board.value.memory, memory, floor):
                self._post(memory=memory)
            time.sleep(pressure.pause_s(memory, floor))

    def _listen(self, settings: Settings) -> str:
        """The path of its socket, or nothing where there cannot be one: then Ray carries every call."""
        self._listener = pipe.Listener(self._respond)
        try:
            path = pipe.own_path(settings.home)
            asyncio.run_coroutine_threadsafe(self._listener.start(path), self._inference).result(SOCKET_S)
        except (OSError, TimeoutError) as error:
            log.warning("%s has no socket: %s", self.name, error)
            return ""
        atexit.register(path.unlink, missing_ok=True)
        return str(path)

    async def _respond(self, kind: pipe.Kind, arguments: tuple[Any, ...]) -> Any:
        match kind:
            case "infer":
                return await super().infer(*arguments)
            case "collect":
                return await super().collect(*arguments)
            case "reserve":
                return await super().reserve(*arguments)
            case "watch":
                return await super().watch(*arguments)
            case "cancel":
                return await super().cancel(*arguments)

    async def infer(self, calls: Sequence[Call]) -> tuple[list[Outcome | None], int]:
        return await self._there(super().infer(calls))

    async def collect(self, ids: Sequence[str]) -> tuple[list[Outcome | None], int]:
        return await self._there(super().collect(ids))

    async def reserve(self, owner: str, wait_s: float) -> None:
        await self._there(super().reserve(owner, wait_s))

    async def watch(self, owner: str, seen: int, wait_s: float) -> View | None:
        return await self._there(super().watch(owner, seen, wait_s))

    async def probe(self) -> float:
        return await self._there(super().probe())

    async def _there(self, work: Coroutine[Any, Any, T]) -> T:
        """On the loop of inference; a call of Ray's comes on another."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._inference))


_remote_worker = ray.remote(
    concurrency_groups={"control": 64}, max_restarts=0, max_task_retries=0, num_cpus=0, max_concurrency=MANY
)(WorkerActor)


class RayHandle(Handle):
    """A worker actor, called from the supervisor."""

    def __init__(self, actor: Any) -> None:
        self.remote = actor

    async def control(self, method: str, *args: Any, timeout_s: float) -> Any:
        """Control calls have a thread of their own: a worker busy with inference answers them."""
        call = getattr(self.remote, method).options(concurrency_group="control")
        return await answer_of(call.remote(*args), timeout_s)

    async def probe(self, timeout_s: float) -> float:
        return float(await answer_of(self.remote.probe.remote(), timeout_s))

    async def whereabouts(self) -> tuple[str, str, int]:
        facts = await asyncio.to_thread(ray._private.state.actors, self.remote._actor_id.hex())
        address = facts.get("Address") or {}
        if facts.get("State") != "ALIVE" or not address.get("NodeID"):
            raise errors.WorkerLost("Ray does not know where it is.")
        return str(address["NodeID"]), str(address["IPAddress"]), int(facts.get("Pid") or 0)

    def kill(self) -> None:
        ray.kill(self.remote, no_restart=True)


async def infer(worker: Any, calls: Sequence[Call], timeout_s: float) -> tuple[list[Outcome | None], int]:
    """One actor call for any number of requests."""
    outcome: tuple[list[Outcome | None], int] = await answer_of(worker.infer.remote(calls), timeout_s)
    return outcome


async def cancel(worker: Any, owners: Sequence[str], block_s: float = 0.0) -> bool:
    """Tells a worker that nobody waits for these requests any more."""
    call = worker.cancel.options(concurrency_group="control")
    return bool(await answer_of(call.remote(owners, block_s), CANCEL_S))


class Line:
    """From an ingress to one worker: by the worker's socket when both are on one machine, by Ray's calls otherwise."""

    def __init__(self, worker: Any, node_id: str = "", path: str = "") -> None:
        self.worker = worker
        self._path = path if node_id and node_id == ray.get_runtime_context().get_node_id() else ""
        self._pipe: pipe.Pipe | None = None
        self._connecting: asyncio.Task[pipe.Pipe] | None = None
        self._not_before = 0.0

    async def infer(self, calls: Sequence[Call], timeout_s: float) -> tuple[list[Outcome | None], int]:
        """One call for any number of requests; what the worker still computes when it refuses others is None."""
        near = await self._reached()
        return await (near.infer(calls, timeout_s) if near else infer(self.worker, calls, timeout_s))

    async def collect(self, ids: Sequence[str], timeout_s: float) -> tuple[list[Outcome | None], int]:
        """The answers that `infer` left open."""
        near = await self._reached()
        if near:
            return await near.collect(ids, timeout_s)
        outcome: tuple[list[Outcome | None], int] = await answer_of(self.worker.collect.remote(ids), timeout_s)
        return outcome

    async def reserve(self, owner: str, wait_s: float) -> None:
        """Returns when the worker does nothing any more and takes no other call."""
        near = await self._reached()
        if near:
            return await near.reserve(owner, wait_s, wait_s + CANCEL_S)
        await answer_of(self.worker.reserve.remote(owner, wait_s), wait_s + CANCEL_S)

    async def ping(self, timeout_s: float) -> None:
        """Raises Unavailable when the worker's loop does not turn; a model that computes does not stop it."""
        near = await self._reached()
        # How far nobody's request is: every worker answers that at once.
        await (
            near.watch("", -1, 0.0, timeout_s) if near else answer_of(self.worker.watch.remote("", -1, 0.0), timeout_s)
        )

    async def cancel(self, owners: Sequence[str], block_s: float = 0.0) -> bool:
        near = await self._reached()
        return await (near.cancel(owners, block_s, CANCEL_S) if near else cancel(self.worker, owners, block_s))

    async def watch(self, owner: str, seen: int, wait_s: float) -> View | None:
        """How far a request is, as soon as it is not what was seen."""
        near = await self._reached()
        if near:
            return await near.watch(owner, seen, wait_s, wait_s + CANCEL_S)
        view: View | None = await answer_of(self.worker.watch.remote(owner, seen, wait_s), wait_s + CANCEL_S)
        return view

    async def _reached(self) -> pipe.Pipe | None:
        """The socket, connected; None when there is none or it does not connect: Ray then tells what is the matter."""
        if self._pipe is not None and self._pipe.is_open:
            return self._pipe
        if not self._path or time.monotonic() < self._not_before:
            return None
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(pipe.connect(self._path))
        connecting = self._connecting
        try:
            # The one who began it may be cancelled; the others still want it.
            found = await asyncio.shield(connecting)
        except OSError as error:
            log.info("%s cannot be reached, Ray is used: %s", self._path, error)
            self._not_before = time.monotonic() + SOCKET_S
            return None
        finally:
            if self._connecting is connecting and connecting.done():
                self._connecting = None
        if not self._path:
            found.retire()
            return None
        self._pipe = found
        return found

    def retire(self) -> None:
        """The worker is not in the table any more; what is open is still answered."""
        self._path = ""
        if self._pipe is not None:
            self._pipe.retire()
            self._pipe = None


# ------------------------------------------------------------------------------------------------ platform


class Cards(NamedTuple):
    """Of one node."""

    #: Memory of the smallest that can be used.
    bytes: int | None
    #: How they are told apart in CUDA_VISIBLE_DEVICES, where the node itself may use only some of the machine's.
    names: tuple[str, ...]
    #: Torch's word for their kind.
    device: str
    #: How many torch can use; None where nobody knows.
    usable: int | None


NO_CARDS = Cards(None, (), "cpu", 0)
#: As Ray counts them.
UNKNOWN_CARDS = Cards(None, (), "cuda", None)
#: Longest that torch may take to be imported and to try every card.
CARDS_S = 60.0
CARD_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
    "ONEAPI_DEVICE_SELECTOR",
)


class RayPlatform:
    """Ray as the supervisor's hands and eyes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cards: dict[str, Cards] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}

    async def nodes(self) -> list[Node]:
        rows = [row for row in await asyncio.to_thread(ray.nodes) if row["Alive"]]
        is_first = not self._cards
        for row in rows:
            node_id = row["NodeID"]
            if not row["Resources"].get("GPU"):
                self._cards[node_id] = NO_CARDS
            elif node_id not in self._cards and node_id not in self._looking:
                self._looking[node_id] = asyncio.ensure_future(self._look_at_cards(node_id))
        if is_first:
            # A supervisor that comes back must see the nodes of the workers that run.
            await asyncio.gather(*self._looking.values())
        # Later ones are there once their cards are known, and nobody waits for that.
        rows = [row for row in rows if row["NodeID"] in self._cards]
        leaving = await asyncio.to_thread(_leaving_nodes)
        return [self._node(row, row["NodeID"] in leaving) for row in rows]

    def _node(self, row: Mapping[str, Any], draining: bool) -> Node:
        resources = row["Resources"]
        return Node(
            id=row["NodeID"],
            ip=row["NodeManagerAddress"],
            cpus=resources.get("CPU", 0.0),
            memory_bytes=int(resources.get("memory", 0)),
            gpus=int(resources.get("GPU", 0)),
            card_bytes=self._cards[row["NodeID"]].bytes,
            usable_gpus=self._cards[row["NodeID"]].usable,
            is_head=HEAD_RESOURCE in resources,
            draining=draining,
        )

    async def _look_at_cards(self, node_id: str) -> None:
        where = NodeAffinitySchedulingStrategy(node_id, soft=False)
        try:
            cards = await asyncio.to_thread(_kept_cards, node_id)
            if cards is None:
                cards = await answer_of(_cards_here.options(scheduling_strategy=where).remote(), CARDS_S + 10)
                await asyncio.to_thread(_keep_cards, node_id, cards)
        except errors.ClusterError as error:
            log.warning("the cards of node %s cannot be asked: %s", node_id, error)
            cards = UNKNOWN_CARDS
        finally:
            self._looking.pop(node_id, None)
        self._cards[node_id] = cards

    async def start(self, name: WorkerName, wanted: Wanted, placement: Placement) -> RayHandle:
        claim = placement.claim
        there = self._cards.get(placement.node, UNKNOWN_CARDS)
        cards = [there.names[card] if card < len(there.names) else str(card) for card, _ in claim.cards]
        # Should torch have no use for the card that was asked for by number, it says so when the model is loaded.
        device = "cuda" if there.usable == 0 else there.device
        options: dict[str, Any] = {
            "name": str(name),
            "namespace": self._settings.namespace,
            "lifetime": "detached",
            "num_cpus": claim.cpus,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(placement.node, soft=False),
        }
        if claim.cards:
            options["num_gpus"] = round(claim.gpus, 4)
        make = _remote_worker.options(**options).remote
        return RayHandle(await asyncio.to_thread(make, str(name), wanted, claim, self._settings, cards, device))

    async def find(self) -> dict[WorkerName, RayHandle]:
        rows = await asyncio.to_thread(ray.util.list_named_actors, all_namespaces=True)
        names = [row["name"] for row in rows if row["namespace"] == self._settings.namespace]
        found: dict[WorkerName, RayHandle] = {}
        for name in filter(None, map(WorkerName.parse, names)):
            try:
                actor = await asyncio.to_thread(ray.get_actor, str(name), self._settings.namespace)
            except ValueError:
                continue  # it died between the two calls
            found[name] = RayHandle(actor)
        return found

    def memory(self) -> tuple[str, Memory]:
        return ray.get_runtime_context().get_node_id(), node_memory.read()

    async def look_for(self, node_id: str, source: Source) -> None:
        try:
            if node_id == ray.get_runtime_context().get_node_id():
                async with asyncio.timeout(LOOK_S):
                    return await asyncio.to_thread(_look_for, source, self._settings)
            where = NodeAffinitySchedulingStrategy(node_id, soft=False)
            await answer_of(_look_there.options(scheduling_strategy=where).remote(source, self._settings), LOOK_S)
        except (errors.Unavailable, errors.WorkerLost, TimeoutError) as error:
            log.warning("node %s could not look for %s: %s", node_id, source.id, error)

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
    """Raises what a worker would that loads from there."""
    locate(source, home=settings.home, allow_pickle=settings.allow_pickle, roots=settings.model_roots)


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def _look_there(source: Source, settings: Settings) -> None:
    _look_for(source, settings)


def _end_worker(pid: int) -> bool:
    """Kills a worker's process; the number may have been given to somebody else's meanwhile."""
    try:
        process = psutil.Process(pid)
        if any("WorkerActor" in word for word in process.cmdline()):
            process.kill()
    except psutil.NoSuchProcess:
        pass
    return True


_end_there = ray.remote(num_cpus=0, max_retries=0)(_end_worker)


@ray.remote(num_cpus=0, max_retries=1)  # type: ignore[untyped-decorator]
def _cards_here() -> Cards:
    """Asks torch in a process of its own, which gives back what torch takes of each card."""
    names = tuple(filter(None, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")))
    chosen = {name: os.environ[name] for name in CARD_VARIABLES if os.environ.get(name)}
    command = [*environment.ISOLATED, accelerators.__file__]
    built = environment.for_python(**chosen)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CARDS_S, check=True, env=built)
        answer = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        log.warning("torch does not say which cards it can use: %s", error)
        return UNKNOWN_CARDS._replace(names=names)
    usable = {int(number): size for number, size in answer["sizes"].items()}
    return Cards(min(usable.values(), default=None), usable_first(names, usable), answer["device"], len(usable))


def _kept_cards(node_id: str) -> Cards | None:
    """What an earlier supervisor learned, so that one that comes back waits for no torch. A node has the same id, and
    the same cards, for as long as it lives."""
    kept = internal_kv._internal_kv_get(f"cluster:cards:{node_id}")
    try:
        size, names, device, usable = json.loads(kept or "")
    except ValueError:
        return None
    return Cards(size, tuple(names), device, usable)


def _keep_cards(node_id: str, cards: Cards) -> None:
    if cards.usable is not None:
        internal_kv._internal_kv_put(f"cluster:cards:{node_id}", json.dumps(cards))


def usable_first(names: tuple[str, ...], usable: Collection[int]) -> tuple[str, ...]:
    """Cards are counted from the first, so that a broken one must be the last."""
    every = names or tuple(map(str, range(max(usable, default=-1) + 1)))
    working = [name for number, name in enumerate(every) if number in usable]
    return (*working, *(name for name in every if name not in working))


# ---------------------------------------------------------------------------------------------- supervisor


class SupervisorActor(Supervisor):
    """The supervisor as Ray restarts it: everything it needs comes from its settings and the store."""

    def __init__(self, settings: Settings) -> None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        store, is_salvaged = _patiently_opened(settings)
        super().__init__(
            store,
            RayPlatform(settings),
            settings,
            new_suffix=lambda: secrets.token_hex(4),
            is_salvaged=is_salvaged,
        )
        self.begin()
        self._life = asyncio.get_running_loop().create_task(self._show_life(), name="life")

    async def pid(self) -> int:
        return os.getpid()

    async def home(self) -> tuple[str, str, str]:
        """Whose cluster this is: the id of its home, where that is, and the URL it serves at."""
        settings = self._settings
        return Place(settings).id, f"{settings.home} on {socket.gethostname()}", settings.url

    async def _show_life(self) -> None:
        """On the loop that everything else runs on: when that hangs, it is missed."""
        heart = Heart(Place(self._settings).beats, "supervisor")
        while True:
            heart.beat()
            await asyncio.sleep(heartbeat.EVERY_S)


def _patiently_opened(settings: Settings) -> tuple[Store, bool]:
    """The store, and whether it had to be salvaged. Ray gives up for good on an actor whose constructor raises, and the
    disk may have room again in a minute."""
    while True:
        try:
            notice = check_store(settings.store)
            if notice:
                log.error(notice)
            return Store(settings.store), bool(notice)
        except (OSError, sqlite3.Error, errors.ClusterError) as error:
            log.error("the store does not open, trying again: %s", error)
            time.sleep(STORE_RETRY_S)


_remote_supervisor = ray.remote(
    num_cpus=0, max_restarts=-1, max_task_retries=0, max_concurrency=MANY, resources={HEAD_RESOURCE: 0.001}
)(SupervisorActor)


class Control:
    """The supervisor, called from an ingress or a command. Finds it again when Ray restarted it elsewhere."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    @classmethod
    def start(cls, settings: Settings) -> Control:
        """The running supervisor, or a new one."""
        return cls(
            _remote_supervisor.options(
                name=SUPERVISOR, namespace=settings.namespace, lifetime="detached", get_if_exists=True
            ).remote(settings)
        )

    @classmethod
    def find(cls, settings: Settings) -> Control:
        try:
            return cls(ray.get_actor(SUPERVISOR, settings.namespace))
        except ValueError:
            raise errors.Unavailable("No supervisor runs; start a cluster with `cluster up`.") from None

    async def call(self, method: str, *args: Any, timeout_s: float = 30.0) -> Any:
        try:
            return await answer_of(getattr(self._actor, method).remote(*args), timeout_s)
        except (errors.Unavailable, errors.WorkerLost):
            raise errors.Unavailable(
                "The control plane does not answer at the moment; models go on serving. Try again.", 5.0
            ) from None

    async def call_patiently(self, method: str, *args: Any, patience_s: float = 15.0) -> Any:
        """The same through a restart of the supervisor; only for calls that may be made twice."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return await self.call(method, *args)
            except errors.Unavailable:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.3)
