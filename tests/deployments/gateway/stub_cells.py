"""Cells of a few lines, on real ports in the loop of the test, with ways to break them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from cluster.runtime.handover import listen
from cluster.settings import Settings
from deployments.gateway.app import Gateway
from deployments.gateway.config import CellAddress, GatewayConfig
from deployments.ingress.bodies import Json
from deployments.ingress.server import PatientServer
from tests.live import free_port

PATIENCE_S = 5.0


class StubCell:
    """Answers `/v1/infer` with its name and the request's items. `/v1/stream` sends a piece whenever `piece` is set."""

    def __init__(self, name: str, *models: str, key: str | None = None, **settings: Any) -> None:
        self.name = name
        self.settings = Settings(port=free_port(), drain_s=1, **settings)
        self.key = key
        self.models = dict.fromkeys(models, 1)
        self.names: dict[str, list[tuple[str, int, float | None]]] = {}
        self.version = 1
        self.changed = asyncio.Event()
        #: What it was sent, and the answer to the next requests instead of the usual one.
        self.requests: list[tuple[Request, bytes]] = []
        self.refusal: Response | None = None
        #: Requests wait for it, and it is told when one of those is dropped.
        self.let = asyncio.Event()
        self.let.set()
        self.entered = asyncio.Event()
        self.dropped = asyncio.Event()
        self.piece = asyncio.Event()
        self.free_bytes = 10
        self.hangs = False
        paths = {
            "/v1/cluster/routes": self._routes,
            "/v1/cluster/auth": self._auth,
            "/v1/cluster/version": self._version,
            "/v1/cluster/info": self._info,
            "/v1/stream": self._stream,
            "/v1/changes": self._changes,
            "/v1/images/jobs/{id}": self._job,
        }
        known = [Route(path, endpoint, methods=["GET", "POST"]) for path, endpoint in paths.items()]
        listed = Route("/v1/models", self._models, methods=["GET"])
        methods = ["GET", "POST", "PUT", "DELETE"]
        self.app = Starlette(routes=[*known, listed, Route("/{rest:path}", self._answer, methods=methods)])
        self._server: PatientServer | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> CellAddress:
        return CellAddress(name=self.name, url=self.settings.url, key=self.key)

    def set_models(self, **workers: int) -> None:
        self.models = workers
        self.version += 1
        self.changed.set()

    async def start(self) -> None:
        self._server = PatientServer(self.app, self.settings)
        self._sockets = listen(self.settings.host, self.settings.port)
        self._task = asyncio.ensure_future(self._server._serve(self._sockets))
        while not self._server.started:
            await asyncio.sleep(0.005)

    async def die(self) -> None:
        """Drops every connection, as the kernel does for a killed process."""
        assert self._server is not None and self._task is not None
        for server in self._server.servers:
            server.close()
        for listening in self._sockets:
            listening.close()
        for connection in tuple(self._server.server_state.connections):
            connection.transport.abort()
        self._server.should_exit = self._server.force_exit = True
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _routes(self, request: Request) -> Response:
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return Json({}, 401)
        if self.hangs:
            await asyncio.Event().wait()
        since = int(request.query_params["since"])
        if since == self.version:
            try:
                async with asyncio.timeout(float(request.query_params["wait"])):
                    await self.changed.wait()
                    self.changed.clear()
            except TimeoutError:
                pass
        rows = [{"uid": uid, "names": self.names.get(uid, []), "workers": n} for uid, n in self.models.items()]
        return Json({"version": self.version, "since": None, "models": rows, "gone": []})

    async def _auth(self, request: Request) -> Response:
        return Json({"auth": self.key is not None})

    async def _version(self, request: Request) -> Response:
        is_good = self.key is None or request.headers.get("authorization") == f"Bearer {self.key}"
        return Json({"version": "0"}, 200 if is_good else 401)

    async def _info(self, request: Request) -> Response:
        return Json([{"gpu_count": 0, "gpu_claimed": 0.0, "mem_total": self.free_bytes, "mem_claimed": 0}])

    async def _models(self, request: Request) -> Response:
        return Json({"object": "list", "data": [{"id": uid} for uid, workers in self.models.items() if workers]})

    async def _job(self, request: Request) -> Response:
        is_own = request.path_params["id"].startswith(self.name)
        return Json({"job": request.path_params["id"], "of": self.name}, 200 if is_own else 404)

    async def _stream(self, request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                for number in range(3):
                    yield b"data: %d\n\n" % number
                    await self.piece.wait()
                    self.piece.clear()
            except asyncio.CancelledError:
                self.dropped.set()
                raise

        return StreamingResponse(pieces(), media_type="text/event-stream")

    async def _changes(self, request: Request) -> Response:
        self.requests.append((request, b""))
        return await self._stream(request)

    async def _answer(self, request: Request) -> Response:
        body = await request.body()
        self.requests.append((request, body))
        self.entered.set()
        try:
            await self.let.wait()
        except asyncio.CancelledError:
            self.dropped.set()
            raise
        if self.refusal is not None:
            return self.refusal
        headers = {"x-own": "kept", "connection": "x-hop", "x-hop": "dropped"}
        return Json({"of": self.name, "size": len(body), "path": request.url.path}, headers=headers)


class Served:
    def __init__(self, gateway: Gateway, url: str) -> None:
        self.gateway = gateway
        self.url = url
        self.http = httpx.AsyncClient(base_url=url, timeout=PATIENCE_S)

    async def infer(self, model: str, **fields: Any) -> httpx.Response:
        return await self.http.post("/v1/infer", json={"model": model, **fields})

    async def until(self, what: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not what():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def before(
    *cells: StubCell, started: bool = True, callers_keys: tuple[str, ...] = (), **settings: Any
) -> AsyncIterator[Served]:
    """A gateway before these cells."""
    place = Settings(port=free_port(), drain_s=1, **{"hold_s": 1.0, **settings})
    config = GatewayConfig(cells=tuple(cell.address for cell in cells), callers_keys=callers_keys)
    gateway = Gateway(config, place)
    async with AsyncExitStack() as stack:
        for cell in cells if started else ():
            await cell.start()
            stack.push_async_callback(cell.die)
        await stack.enter_async_context(gateway.following())
        server = PatientServer(gateway.app(), place)
        sockets = listen(place.host, place.port)
        task = asyncio.ensure_future(server._serve(sockets))
        while not server.started:
            await asyncio.sleep(0.005)
        served = Served(gateway, f"http://127.0.0.1:{place.port}")
        try:
            yield served
        finally:
            await served.http.aclose()
            server.should_exit = server.force_exit = True
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for listening in sockets:
                listening.close()
    assert not any(gateway.table.in_flight.values()), "a request is still counted"


def in_a_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


def parsed(body: bytes) -> Any:
    return orjson.loads(body)
