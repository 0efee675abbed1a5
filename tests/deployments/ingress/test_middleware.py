"""What every request passes: limits before any work, one line in the log, and no work for a client that has left."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict

from cluster import errors
from cluster.metrics import page
from cluster.settings import Settings
from deployments.ingress.bodies import Bodies, BodyLimits, Json, checked, json_body
from deployments.ingress.metrics import IngressMetrics
from deployments.ingress.middleware import WRITE_S, AccessLog, RequestMiddleware
from deployments.ingress.server import Server
from tests.live import free_port

PATIENCE_S = 5.0


class House:
    """The middleware before an application whose `/work` takes for ever, and which notices when that work is
    cancelled."""

    def __init__(self, most: int = 10, **settings: int) -> None:
        self.entered = asyncio.Event()
        self.dropped = asyncio.Event()
        self.log = io.StringIO()
        self.metrics = IngressMetrics("here")
        self.settings = Settings(**{"port": free_port(), "max_body_bytes": 300_000, **settings})
        app = FastAPI(openapi_url=None)
        logging.getLogger("cluster.access").setLevel(logging.INFO)
        self.limits, self.bodies = BodyLimits(), Bodies(self.settings.bodies_bytes)
        for path in ("/work", "/late"):
            self.limits.set(path, self.settings.max_body_bytes)
        app.add_middleware(
            RequestMiddleware,
            metrics=self.metrics,
            most=most,
            access_log=AccessLog(self.log),
            limits=self.limits,
            bodies=self.bodies,
            public={("GET", "/health")},
        )
        self.app = app

        async def work() -> Json:
            self.entered.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.dropped.set()
                raise
            return Json(None)

        @app.get("/work")
        async def get_work() -> Json:
            return await work()

        @app.post("/work")
        async def post_work(request: Request) -> Json:
            await json_body(request)
            return await work()

        @app.post("/late")
        async def read_late(request: Request) -> Json:
            await asyncio.sleep(0.1)
            return Json(len(await request.body()))

        @app.get("/health")
        async def health(request: Request) -> Json:
            request.state.model = 'a "name"'
            return Json("ok")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[httpx.AsyncClient]:
        self.server = server = Server(self.app, self.settings)
        await server.begin()
        try:
            async with httpx.AsyncClient(base_url=self.settings.url, timeout=PATIENCE_S) as client:
                yield client
        finally:
            await server.end()

    async def lines(self, count: int) -> list[dict[str, object]]:
        """The lines of the log, once there are that many."""
        async with asyncio.timeout(PATIENCE_S):
            while self.log.getvalue().count("\n") < count:
                await asyncio.sleep(WRITE_S / 4)
        return [json.loads(line.split(" cluster.access ")[1]) for line in self.log.getvalue().splitlines()]


def run(test: Awaitable[None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(4 * PATIENCE_S):
            await test

    asyncio.run(limited())


Ask = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]

WAYS: dict[str, Ask] = {
    "without a body": lambda client: client.get("/work"),
    "with a small body": lambda client: client.post("/work", json={"text": "x"}),
    "with a body of many reads": lambda client: client.post("/work", json={"text": "x" * 200_000}),
}


@pytest.mark.parametrize("ask", WAYS.values(), ids=WAYS)
def test_work_is_dropped_when_its_client_leaves(ask: Ask) -> None:
    async def test() -> None:
        house = House()
        async with house.open() as client:
            asked = asyncio.create_task(ask(client))  # type: ignore[var-annotated]
            await house.entered.wait()
            asked.cancel()
            await asyncio.wait_for(house.dropped.wait(), PATIENCE_S)
            (line,) = await house.lines(1)
            assert (line["route"], line["status"]) == ("/work", 499)
            assert (await client.get("/health")).status_code == 200

    run(test())


def test_a_client_that_leaves_within_its_body_is_a_line_of_the_log_and_nothing_more() -> None:
    async def test() -> None:
        house = House()
        async with house.open():
            _, writer = await asyncio.open_connection(house.settings.host, house.settings.port)
            writer.write(b"POST /work HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.close()
            (line,) = await house.lines(1)
            assert line["status"] == 499 and not house.entered.is_set()

    run(test())


def test_a_body_that_is_read_late_is_read_whole() -> None:
    async def test() -> None:
        house = House()
        async with house.open() as client:
            assert (await client.post("/late", content=b"x" * 100_000)).json() == 100_000
            assert (await client.post("/late", content=b"")).json() == 0

    run(test())


def test_more_requests_than_allowed_are_refused_before_they_are_read() -> None:
    async def test() -> None:
        house = House(most=1)
        async with house.open() as client:
            first = asyncio.create_task(client.get("/work"))
            await house.entered.wait()
            # Only the headers are sent, and nothing of the body.
            reader, writer = await asyncio.open_connection(house.settings.host, house.settings.port)
            writer.write(b"POST /work HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n")
            head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)).decode().lower()
            assert head.startswith("http/1.1 503") and "retry-after: 1\r\n" in head
            writer.close()
            assert (await client.get("/health")).status_code == 200, "whether it lives can always be asked"
            first.cancel()
            await house.dropped.wait()
            house.entered.clear()
            again = asyncio.create_task(client.get("/work"))
            await house.entered.wait()
            again.cancel()

    run(test())


def test_a_body_above_the_limit_is_refused_by_its_length_and_by_its_bytes() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * 50_000

    async def test() -> None:
        house = House()
        async with house.open() as client:
            said = await client.post("/work", content=b"x" * 400_000)
            counted = await client.post("/work", content=pieces())
            assert said.status_code == counted.status_code == 413
            assert {said.json()["error"]["code"], counted.json()["error"]["code"]} == {"too_large"}
            assert not house.entered.is_set()

    run(test())


def test_a_request_is_one_line_and_one_count() -> None:
    async def test() -> None:
        house = House()
        async with house.open() as client:
            await client.get("/health", headers={"x-request-id": "mine"})
            await client.get("/nowhere")
            first, second = await house.lines(2)
        assert first.pop("ms") >= 0  # type: ignore[operator]
        assert first == {
            "request_id": "mine",
            "method": "GET",
            "route": "/health",
            "status": 200,
            "model": 'a "name"',
        }
        assert (second["route"], second["status"], second["model"]) == ("unmatched", 404, None)
        counted = page(house.metrics.collect()).decode()
        assert 'cluster_http_requests_total{ingress="here",route="/health",status="200"} 1.0' in counted
        assert 'cluster_http_seconds_count{ingress="here",route="unmatched"} 1.0' in counted

    run(test())


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


def test_a_field_of_any_length_is_named_by_its_beginning() -> None:
    with pytest.raises(errors.InvalidBody) as caught:
        checked(Strict, {"x" * 10_000_000: 1})
    assert len(caught.value.message) < 200
    assert caught.value.param is not None and len(caught.value.param) < 200
