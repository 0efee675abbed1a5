"""The real app over HTTP. In place of the supervisor is a stand-in that records what it was told to do."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
from fastapi import FastAPI
from fastapi.routing import APIRoute

from cluster import errors
from cluster.calls import Answer, Call, OpenCall
from cluster.catalog.entry import Entry
from cluster.figures import Doing, Figures
from cluster.keys import Key, new_session
from cluster.launch import Wanted
from cluster.metrics import gauge_page
from cluster.routes import ModelRoutes, Route, ServedModel, Snapshot
from cluster.runtime.supervisor_calls import SupervisorCalls
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.settings import Settings
from cluster.status import Claim, Event, EventQuery, ModelState, ModelStatus, Node, StatusNews
from cluster.tally import Counting
from cluster.worker.family import Progress
from cluster.worker.stepping import SteppedQueue
from deployments.ingress.app import build
from deployments.ingress.server import Server
from tests.cluster.statuses import make_status, make_worker
from tests.make import make_node

PATIENCE_S = 20.0
#: A stream without an end.
ENDLESS = "/v1/changes"


class StandIn:
    """Stands in for the supervisor."""

    def __init__(
        self,
        workers: dict[str, Any] | None = None,
        keys: Iterable[Key] = (),
        abilities: tuple[str, ...] = ("infer", "text2image"),
    ) -> None:
        self._abilities = abilities
        #: By uid, the stand-in for the only worker of each model; None for a model without a worker.
        self.workers = workers or {}
        self.keys = tuple(keys)
        #: Of its keys, and of the statuses.
        self.version = self.news = 1
        #: The models that are being woken.
        self.waking: set[str] = set()
        self.launched: list[Wanted] = []
        self.told: list[str] = []

    async def refuse(self, *_: Any) -> Any:
        """Answers the calls that are not defined here."""
        raise errors.BadRequest("The stand-in does not do that.")

    async def _wait(self, is_so: Callable[[], bool], within_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not is_so():
                    await asyncio.sleep(0.01)

    async def changes(self, version: int, wait_s: float) -> Snapshot:
        await self._wait(lambda: version < self.version, wait_s)
        models = {
            uid: ModelRoutes(
                uid,
                self._abilities,
                (Route(f"worker:{uid}:1:0-x"),) if worker else (),
                ModelState.READY,
                launched=ServedModel(name=uid, address=f"spec of {uid}"),
                waking=uid in self.waking,
                wake_s=3.0 if uid in self.waking else None,
            )
            for uid, worker in self.workers.items()
        }
        handles = {f"worker:{uid}:1:0-x": worker for uid, worker in self.workers.items() if worker}
        return Snapshot(self.version, models, handles, self.keys)

    def _statuses(self) -> list[ModelStatus]:
        return [make_status(uid, "READY", workers=(make_worker(node="n0"),)) for uid in self.workers]

    async def all_statuses(self) -> list[ModelStatus]:
        return self._statuses()

    async def status_news(self, version: int, wait_s: float) -> StatusNews:
        await self._wait(lambda: version < self.news, wait_s)
        return StatusNews(self.news, None, tuple(map(pickle.dumps, self._statuses())))

    async def log_in(self, key_id: str) -> tuple[Key, str]:
        session, text = new_session(next(key for key in self.keys if key.id == key_id))
        self.keys = (*self.keys, session)
        self.version += 1
        return session, text

    async def log_out(self, digest: str) -> None:
        self.keys = tuple(key for key in self.keys if key.digest != digest)
        self.version += 1

    async def status(self, uid: str, *_: Any) -> ModelStatus:
        found = next((status for status in self._statuses() if status.uid == uid), None)
        if found is None:
            raise errors.UnknownUid(f"Model not found in the model list, uid: {uid}", "model_uid")
        return found

    async def events(self, uid: str) -> list[Any]:
        return []

    async def recent_events(self, query: EventQuery) -> list[Event]:
        return []

    async def logs(self, uid: str, lines: int) -> list[str]:
        return [f"log of {uid}"]

    async def free_bytes(self) -> int:
        return 1

    async def uptime(self) -> float:
        return 1.0

    async def metrics(self, ingress: str, own: bytes) -> list[bytes]:
        rows = [({"model": uid, "state": "READY"}, 1.0) for uid in self.workers]
        return [gauge_page("cluster_model_state", "Models by state.", rows)]

    async def nodes(self) -> list[tuple[Node, Claim, int]]:
        return [(make_node(), Claim(), 1)]

    async def registered(self) -> list[Entry]:
        return []

    async def launch(self, wanted: Wanted, by_name: bool) -> ModelStatus:
        self.launched.append(wanted)
        return make_status(wanted.uid, "READY")


class Noting:
    """Wraps a stand-in for the ingress: records the name of each call, and refuses calls that are not defined."""

    def __init__(self, supervisor: StandIn) -> None:
        self._supervisor = supervisor

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        assert hasattr(SupervisorCalls, name), f"the supervisor has no {name}"
        method = getattr(self._supervisor, name, self._supervisor.refuse)

        def call(*arguments: Any, **named: Any) -> Awaitable[Any]:
            self._supervisor.told.append(name)
            return method(*arguments, **named)

        return call


class Slow:
    """Stands in for a worker: an item is done when the test allows it. Requests are known by their owners, as in real
    workers."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self._jobs = SteppedQueue(self._stream, ThreadPoolExecutor(8), parallel=8)
        self.infer, self.watch, self.cancel = Method(self._infer), Method(self._jobs.watch), Method(self._cancel)
        self.under_way = Method(self._under_way)
        self.cancelled: list[str] = []

    def _stream(self, item: Any, course: Progress) -> Any:
        course.tell(0.5, "at work")
        while not self.let.wait(0.01):
            course.check()
        return item

    async def _infer(self, calls: Sequence[Call]) -> tuple[list[Any], int]:
        return [await self._answer(call) for call in calls], 0

    async def _answer(self, call: Call) -> Answer | errors.ClusterError:
        costs = [1.0] * len(call.items)
        job = self._jobs.submit(call.items, costs, owner=call.id, seconds_left=call.seconds_left)
        try:
            return Answer(await job.done, 1, 0.0, 0.0)
        except errors.ClusterError as error:
            return error

    async def _under_way(self) -> list[OpenCall]:
        return self._jobs.under_way()

    async def _cancel(self, owners: Sequence[str], block_s: float = 0.0) -> bool:
        self.cancelled += owners
        return any([self._jobs.cancel(owner, block_s) for owner in owners])


class Method:
    """A method of an actor."""

    def __init__(self, method: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        self.remote = method

    def options(self, **_: Any) -> Method:
        return self


class CountingWorker:
    """Stands in for a worker that only counts."""

    def __init__(self) -> None:
        self.figures = Method(self._figures)
        self.counting = Counting()
        self.tokens = 0
        self.waiting = 4
        self.is_asked = 0

    async def _figures(self) -> Figures:
        self.is_asked += 1
        return Figures(self.counting.so_far, self.tokens, doing=Doing(waiting=self.waiting), memory_bytes=1000)

    def work(self, requests: int) -> None:
        for _ in range(requests):
            self.counting.answered(0.1)
        self.tokens += 10 * requests


def settings(home: Any, **fields: Any) -> Settings:
    return Settings(home=home, plugins="tests.families", **fields)


@asynccontextmanager
async def opened(place: Settings, supervisor: StandIn) -> AsyncIterator[FastAPI]:
    app = build(place, cast(SupervisorClient, Noting(supervisor)))
    dispatcher = app.state.serving.dispatcher
    async with asyncio.timeout(PATIENCE_S):
        while not dispatcher.is_ready:
            await asyncio.sleep(0.001)
    try:
        yield app
    finally:
        dispatcher._watcher.cancel()


@asynccontextmanager
async def asked(place: Settings, supervisor: StandIn) -> AsyncIterator[httpx.AsyncClient]:
    """A client that calls the app directly, without a socket."""
    async with opened(place, supervisor) as app:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=place.url) as client:
            yield client


@asynccontextmanager
async def served(place: Settings, supervisor: StandIn) -> AsyncIterator[str]:
    """The app on a real port."""
    async with opened(place, supervisor) as app:
        server = Server(app, place)
        await server.begin()
        try:
            yield place.url
        finally:
            await server.end()


def run(test: Awaitable[None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(3 * PATIENCE_S):
            await test

    asyncio.run(limited())


def every_call(app: FastAPI, **values: str) -> list[tuple[str, str]]:
    """Method and path of every route whose answer ends, with example values for the parameters of the path."""
    calls = []
    for route in app.routes:
        path = getattr(route, "path_format", getattr(route, "path", None))
        if path in (None, ENDLESS):
            continue
        methods = route.methods if isinstance(route, APIRoute) else ("GET",)
        names = {**dict.fromkeys(getattr(route, "param_convertors", ()), "x"), **values}
        calls += [(method, path.format(**names)) for method in sorted(methods or ())]
    return calls
