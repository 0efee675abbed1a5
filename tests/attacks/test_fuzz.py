"""Random bodies for every route: none may be answered with a 500, and the event loop must answer others meanwhile.
`python -m benchmarks.fuzz` does the same for minutes with a cluster of real models."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from cluster import errors
from cluster.launch import Wanted
from cluster.routes import ModelRoutes, Snapshot
from cluster.settings import Settings
from cluster.status import Claim, ModelState, ModelStatus
from cluster.worker.family import Family
from cluster.worker.worker import Worker
from deployments.ingress.lag import LagWatch
from deployments.ingress.server import Server
from tests.attacks.standing_in import Method, StandIn, opened
from tests.deployments.ingress.route_tables import GOOD
from tests.families import Letters, Painting
from tests.fuzzing import Fuzzer, Sent, Target, answer_to, targets_of
from tests.live import free_port
from tests.make import GIB, make_wanted
from tests.read_pages import Reader

SECONDS = 6.0
SEED = 7
AT_ONCE = 8
#: Answers that take longer than this are meant to: event streams, and waits for news.
PATIENCE_S = 2.0
#: By the uid under which it is served.
FAMILIES: dict[str, type[Family]] = {"letters": Letters, "painting": Painting, "reader": Reader}


class Handle:
    """A worker in this process."""

    def __init__(self, worker: Worker) -> None:
        self.infer, self.cancel, self.watch = map(Method, (worker.infer, worker.cancel, worker.watch))


class Supervisor(StandIn):
    """A supervisor that launches nothing and knows nothing."""

    def __init__(self, workers: dict[str, Worker]) -> None:
        super().__init__({uid: Handle(worker) for uid, worker in workers.items()})

    async def refuse(self, *_: Any) -> Any:
        raise errors.Unavailable("The stand-in does not do that.", retry_after_s=1.0)

    async def changes(self, version: int, wait_s: float) -> Snapshot:
        snapshot = await super().changes(version, wait_s)
        models = {
            uid: ModelRoutes(uid, FAMILIES[uid].abilities, model.workers, ModelState.READY)
            for uid, model in snapshot.models.items()
        }
        return Snapshot(1, models, snapshot.handles, ())

    async def launch(self, wanted: Wanted, by_name: bool) -> ModelStatus:
        raise errors.DoesNotFit(f"{wanted.uid} fits on no node.")


async def loaded(uid: str, folder: Path) -> Worker:
    wanted = make_wanted(uid)
    source = wanted.source.model_copy(update={"id": str(folder)})
    family = FAMILIES[uid]
    wanted = wanted.model_copy(update={"source": source, "family": f"{family.__module__}:{family.__qualname__}"})
    worker = Worker(f"worker:{uid}:1:0-x", wanted, Claim(GIB), Settings(home=folder))
    await worker.start(1, ("n0", "127.0.0.1"), 1)
    seen, phase = -1, ""
    while phase not in ("ready", "failed"):
        seen, report = await worker.report(1, seen, 10)
        phase = report.phase
    assert phase == "ready", report.error
    return worker


@contextmanager
def serving(folder: Path, stalls: list[float]) -> Iterator[tuple[str, list[Target]]]:
    """The address, and the app that is served there. It runs in a thread of its own, so that its event loop does
    nothing but serve."""
    plugins = "tests.families,tests.read_pages"
    # Answers that nobody waits for any more would hold its end up.
    place = Settings(home=folder, port=free_port(), plugins=plugins, log_level="WARNING", drain_s=1.0)
    is_up, targets = threading.Event(), []

    async def serve() -> None:
        workers = {uid: await loaded(uid, folder) for uid in FAMILIES}
        async with opened(place, Supervisor(workers)) as app:
            server = Server(app, place)
            await server.begin()
            targets.extend(targets_of(app))
            LagWatch(stalls.append)
            is_up.set()
            await ended.wait()
            await server.end()

    def run() -> None:
        # Ends the tasks of the workers, too, which have no end of their own.
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    loop, ended = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert is_up.wait(30)
    try:
        yield place.url, targets
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(30)


def test_an_answer_that_never_ends_is_left_in_time() -> None:
    def beat(listening: socket.socket) -> None:
        taken, _ = listening.accept()
        with taken, suppress(OSError):
            taken.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while not is_left.wait(0.02):
                taken.sendall(b"1\r\n.\r\n")

    is_left = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=beat, args=(listening,), daemon=True)
        server.start()
        connection = http.client.HTTPConnection("127.0.0.1", listening.getsockname()[1], timeout=0.3)
        assert answer_to(connection, Sent("GET", "/", b"", {})) == ("TimeoutError", b"")
        is_left.set()
        server.join()


def test_no_body_is_a_500_or_stops_the_loop(tmp_path: Path) -> None:
    stalls: list[float] = []
    statuses: Counter[int | str] = Counter()
    broken: list[str] = []

    with serving(tmp_path, stalls) as (url, targets):
        sent = iter(Fuzzer(targets, SEED, tuple(FAMILIES), GOOD, most_bytes=30_000))
        turn, deadline = threading.Lock(), time.monotonic() + SECONDS

        def send() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", int(url.rpartition(":")[2]), timeout=PATIENCE_S)
            while time.monotonic() < deadline:
                with turn:
                    request = next(sent)
                status, told = answer_to(connection, request)
                statuses[status] += 1
                if status in (500, 501, 502):
                    broken.append(f"{status} {told!r} for {request}")
            connection.close()

        threads = [threading.Thread(target=send) for _ in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert httpx.get(url + "/health", timeout=PATIENCE_S).status_code == 200
    print(f"{statuses.total()} requests to {len(targets)} routes, longest stall {max(stalls):.3f} s: {dict(statuses)}")
    assert not broken, "\n".join(broken[:10])
    assert max(stalls) < 1.0
