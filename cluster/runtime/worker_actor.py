"""A worker in its own process, as a Ray actor."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

import ray
import uvloop

from cluster import environment, errors
from cluster.calls import Call, OpenCall, View
from cluster.control import pressure
from cluster.launch import Wanted
from cluster.runtime import local_rpc, node_memory, nvml, visible_cards
from cluster.runtime.actor_calls import MANY
from cluster.runtime.inbox import Inbox, LastPiece
from cluster.runtime.neighbours import RayNeighbours
from cluster.runtime.place import settings_here
from cluster.runtime.worker_calls import SPOKEN_CALLS, WORKER_CALLS, WorkerCalls
from cluster.settings import Settings
from cluster.status import Claim
from cluster.worker.family import load_family
from cluster.worker.outcomes import Outcome
from cluster.worker.self_test import look_again_and_again
from cluster.worker.talking import Send
from cluster.worker.worker import Worker

log = logging.getLogger("cluster.worker_actor")

T = TypeVar("T")

#: When memory runs out the kernel ends the process with the highest score: a worker before the supervisor, the ingress
#: and Ray.
OOM_SCORE = 500
#: How long a worker may take to open its socket.
SOCKET_S = 5.0
#: How long pieces of an answer that goes by Ray wait for further ones.
FRAME_S = 0.02


class WorkerActor(Worker):
    """A worker in its own process; its environment is set before any model library is imported."""

    def __init__(
        self,
        name: str,
        wanted: Wanted,
        claim: Claim,
        settings: Settings,
        cards: Sequence[str],
        device: str,
        uuids: Sequence[str] = (),
    ) -> None:
        """`uuids`: of its cards, as far as they are known."""
        # The other nodes' settings are the head's, with homes of their own.
        neighbours = RayNeighbours(settings)
        settings = settings_here(settings)
        # Ray sets this to 1 for actors that reserve no core; the share of the node's cores is set explicitly later.
        os.environ.pop("OMP_NUM_THREADS", None)
        envs, ignored = environment.split(wanted.spec.envs, settings.allow_envs)
        os.environ.update(envs)
        # Ray leaves every card visible to an actor that asked for none, and picks the card itself where one was asked;
        # placement has decided, here it is carried out. Ray's own number keeps its ledger equal to ours.
        visible_cards.show_only(device, cards)
        os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1", TOKENIZERS_PARALLELISM="false")
        # Threads that wait for each other stay awake for 20 microseconds: to fall asleep between two layers takes
        # longer than many a layer does, and who stays awake for milliseconds takes the cores from the ingress.
        # What streams computes for seconds in one team of threads, with more to do in between: it keeps the usual 3 ms.
        if load_family(wanted.family).contract == "batched":
            os.environ.setdefault("OMP_WAIT_POLICY", "ACTIVE")
            os.environ.setdefault("GOMP_SPINCOUNT", "2000")
        node_memory.go_first(OOM_SCORE)
        super().__init__(name, wanted, claim, settings, device, neighbours, partial(nvml.cards_of, uuids))
        if ignored:
            log.warning("%s sets no %s: CLUSTER_ALLOW_ENVS does not name it", name, ", ".join(ignored))
        # Inference has a loop of its own: what comes by the socket and what Ray brings meet tinbox.
        self._inference = uvloop.new_event_loop()
        threading.Thread(target=self._inference.run_forever, name="inference", daemon=True).start()
        looking = look_again_and_again(super().probe, self._board, settings)
        self._looking = asyncio.run_coroutine_threadsafe(looking, self._inference)
        self._post(socket=self._listen(settings))
        threading.Thread(target=self._watch_memory, name="memory", daemon=True).start()

    def _watch_memory(self) -> None:
        """Reports the memory of this process and of the node, more often when less is left."""
        floor_bytes = self._settings.memory_floor_bytes
        meter = node_memory.Meter(self._settings.home, floor_bytes)
        while True:
            memory = meter.read()
            floor = pressure.floor_of(memory.total_bytes, floor_bytes)
            if pressure.is_news(self._board.value.memory, memory, floor):
                self._post(memory=memory)
            time.sleep(pressure.pause_s(memory, floor))

    def _listen(self, settings: Settings) -> str:
        """The path of its socket; empty if it cannot have one, and then every call comes through Ray."""
        self._listener = local_rpc.Listener(self._respond, self._speak)
        try:
            path = local_rpc.own_path(settings.home)
            asyncio.run_coroutine_threadsafe(self._listener.start(path), self._inference).result(SOCKET_S)
        except (OSError, TimeoutError) as error:
            log.warning("%s has no socket: %s", self.name, error)
            return ""
        atexit.register(path.unlink, missing_ok=True)
        return str(path)

    async def _respond(self, name: str, arguments: Sequence[Any]) -> Any:
        """A call that came by the socket, and is on the loop of inference already."""
        if name not in WORKER_CALLS:
            raise errors.BadRequest(f"A worker has no call {name!r}.")
        return await getattr(super(), name)(*arguments)

    async def _speak(self, name: str, arguments: Sequence[Any], send: Send) -> Any:
        """A call that is answered in pieces, likewise."""
        if name not in SPOKEN_CALLS:
            raise errors.BadRequest(f"A worker has no call {name!r} that is answered in pieces.")
        return await getattr(super(), name)(*arguments, send)

    async def talk_in_frames(self, call: Call) -> AsyncIterator[list[object]]:
        """Each frame costs Ray a call of its own, so pieces are gathered for a moment."""
        loop, inbox = asyncio.get_running_loop(), Inbox(lambda: talking.cancel())

        def send(piece: object) -> None:
            loop.call_soon_threadsafe(inbox.put, piece)

        talking = asyncio.ensure_future(self._there(super().talk(call, send)))
        talking.add_done_callback(lambda ended: inbox.put(LastPiece(None if ended.cancelled() else ended.result())))
        try:
            while not inbox.is_over:
                yield await inbox.taken()
                if not inbox.is_over:
                    await asyncio.sleep(FRAME_S)
        finally:
            talking.cancel()

    async def infer(self, calls: Sequence[Call]) -> tuple[list[Outcome | None], int]:
        return await self._there(super().infer(calls))

    async def collect(self, ids: Sequence[str]) -> tuple[list[Outcome | None], int]:
        return await self._there(super().collect(ids))

    async def reserve(self, owner: str, wait_s: float) -> None:
        await self._there(super().reserve(owner, wait_s))

    async def watch(self, owner: str, seen: int, wait_s: float) -> View | None:
        return await self._there(super().watch(owner, seen, wait_s))

    async def under_way(self) -> Sequence[OpenCall]:
        return await self._there(super().under_way())

    async def probe(self) -> float:
        return await self._there(super().probe())

    async def failing(self) -> Sequence[str] | None:
        return await self._there(super().failing())

    async def overdue(self) -> Sequence[str]:
        return await self._there(super().overdue())

    async def _there(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs it on the loop of inference: Ray's calls arrive on another loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._inference))


#: An error of types here means that the worker lacks a call, or has it otherwise than an ingress makes it.
_answering: type[WorkerCalls] = WorkerActor

remote_worker = ray.remote(
    concurrency_groups={"control": 64}, max_restarts=0, max_task_retries=0, num_cpus=0, max_concurrency=MANY
)(_answering)
