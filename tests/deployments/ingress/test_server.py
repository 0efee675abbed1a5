"""The web server of an ingress on a real port: who may share the port, what it waits for, how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from cluster import errors
from cluster.runtime.heartbeat import beats
from cluster.runtime.place import Place
from cluster.settings import Settings
from deployments.ingress.server import BODY_PAUSE_S, HEAD_S, Server
from tests.live import free_port

PATIENCE_S = 5.0


class Held:
    """An application whose `/held` answers when the test allows it."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.let = asyncio.Event()
        self.app = FastAPI(openapi_url=None)

        @self.app.get("/quick")
        async def quick() -> str:
            return "quick"

        @self.app.get("/held")
        async def held() -> str:
            self.entered.set()
            await self.let.wait()
            return "held"

        @self.app.post("/size")
        async def size(request: Request) -> int:
            return len(await request.body())


@asynccontextmanager
async def serving(held: Held, port: int | None = None, **settings: Any) -> AsyncIterator[tuple[Server, str]]:
    place = Settings(port=port or free_port(), **settings)
    server = Server(held.app, place)
    await server.begin()
    try:
        yield server, place.url
    finally:
        held.let.set()
        await server.end()


def in_a_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    async def limited() -> None:
        async with asyncio.timeout(4 * PATIENCE_S):
            await test()

    def run() -> None:
        asyncio.run(limited())

    run.__name__ = test.__name__
    return run


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    """What still arrived. A connection with unread bytes is reset, not closed."""
    try:
        return await asyncio.wait_for(reader.read(), PATIENCE_S)
    except ConnectionResetError:
        return b""


async def seen_by(server: Server) -> None:
    """Waits until the server has accepted the connection that was just made."""
    async with asyncio.timeout(PATIENCE_S):
        while not server.server_state.connections:
            await asyncio.sleep(0.001)


@in_a_loop
async def test_two_share_a_port_and_either_serves_it_alone() -> None:
    async with serving(Held()) as (first, url):
        async with serving(Held(), first._address[1]), httpx.AsyncClient(base_url=url) as client:
            assert (await client.get("/quick")).json() == "quick"
            await first.end()
            with pytest.raises(errors.Unavailable):
                first.check()
        async with serving(Held(), first._address[1]), httpx.AsyncClient(base_url=url) as client:
            assert (await client.get("/quick")).json() == "quick"


@in_a_loop
async def test_a_port_of_somebody_else_is_refused_by_its_name() -> None:
    taken = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    with pytest.raises(errors.Conflict, match=f"Port {port} of 127.0.0.1 cannot be served on: Address already in use"):
        await Server(Held().app, Settings(port=port)).begin()
    taken.close()


@in_a_loop
async def test_the_end_waits_for_what_runs_and_accepts_nothing_more() -> None:
    held = Held()
    async with serving(held) as (server, url), httpx.AsyncClient(base_url=url) as client:
        running = asyncio.create_task(client.get("/held"))
        await held.entered.wait()
        ending = asyncio.create_task(server.end())
        with pytest.raises(httpx.ConnectError):
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    async with httpx.AsyncClient(base_url=url) as late:
                        await late.get("/quick")
        assert not ending.done()
        held.let.set()
        assert (await running).json() == "held"
        await ending


@in_a_loop
async def test_the_end_loses_no_request_of_callers_who_keep_their_connections() -> None:
    held, failed, answered = Held(), [], 0
    async with serving(held) as (server, url):
        limits = httpx.Limits(max_connections=16, max_keepalive_connections=16)
        async with httpx.AsyncClient(base_url=url, limits=limits) as client:

            async def call() -> None:
                nonlocal answered
                while True:
                    try:
                        answered += (await client.get("/quick")).status_code == 200
                    except httpx.ConnectError:
                        return  # refused before it was sent: with a watchdog, the next ingress would take it
                    except httpx.HTTPError as error:
                        failed.append(error)
                        return

            callers = [asyncio.create_task(call()) for _ in range(16)]
            while answered < 100:
                await asyncio.sleep(0.001)
            await server.end()
            await asyncio.gather(*callers)
        assert failed == []


@in_a_loop
async def test_an_answer_at_the_end_says_that_its_connection_ends() -> None:
    async with serving(Held()) as (server, url), httpx.AsyncClient(base_url=url) as client:
        assert "connection" not in (await client.get("/quick")).headers
        ending = asyncio.create_task(server.end())
        while server.servers[0].is_serving():
            await asyncio.sleep(0.001)
        assert (await client.get("/quick")).headers["connection"] == "close"
        await ending


def test_when_rays_node_process_ends_what_was_accepted_is_answered_and_the_heart_stops(tmp_path: Path) -> None:
    folder = Place(Settings(home=tmp_path)).beats
    folder.mkdir(parents=True)

    async def until(holds: Callable[[], object]) -> None:
        while not holds():
            await asyncio.sleep(0.01)

    async def test() -> None:
        held = Held()
        async with serving(held, home=tmp_path) as (server, url), httpx.AsyncClient(base_url=url) as client:
            running = asyncio.create_task(client.get("/held"))
            await until(lambda: list(beats(folder)))
            await held.entered.wait()
            server._raylet.has_ended = lambda: True  # type: ignore[method-assign]
            await until(lambda: not server.servers[0].is_serving())
            assert list(beats(folder)), "the watchdog waits for the answer"
            held.let.set()
            assert (await running).json() == "held"
            await until(lambda: not list(beats(folder)))

    in_a_loop(test)()


@in_a_loop
async def test_the_end_waits_no_longer_than_draining_may_take() -> None:
    held = Held()
    async with serving(held, drain_s=1) as (server, url), httpx.AsyncClient(base_url=url) as client:
        running = asyncio.create_task(client.get("/held"))
        await held.entered.wait()
        await asyncio.wait_for(server.end(), PATIENCE_S)
        held.let.set()
        answers = await asyncio.gather(running, return_exceptions=True)
        assert isinstance(answers[0], httpx.HTTPError) or answers[0].status_code == 500


@pytest.mark.parametrize("sent", [b"", b"GET /quick HTTP/1.1\r\nhost: x\r\n", b"\r\n"])
def test_a_head_that_never_ends_is_not_waited_for(sent: bytes) -> None:
    @in_a_loop
    async def test() -> None:
        async with serving(Held()) as (server, _):
            reader, writer = await asyncio.open_connection(*server._address)
            writer.write(sent)
            await seen_by(server)
            now = asyncio.get_running_loop().time()
            server.close_late(now + HEAD_S - 1)
            assert server.server_state.connections
            server.close_late(now + HEAD_S + 1)
            assert await until_closed(reader) == b""
            writer.close()

    test()


@in_a_loop
async def test_a_head_without_end_is_refused() -> None:
    async with serving(Held()) as (server, url):
        reader, writer = await asyncio.open_connection(*server._address)
        writer.write(b"GET /quick HTTP/1.1\r\n")
        for number in range(200):
            writer.write(b"x-%d: %s\r\n" % (number, b"y" * 1000))
        assert (await asyncio.wait_for(reader.readline(), PATIENCE_S)).startswith(b"HTTP/1.1 400")
        writer.close()
        async with httpx.AsyncClient(base_url=url) as client:
            long = {f"x-{number}": "y" * 1000 for number in range(30)}
            assert (await client.get("/quick", headers=long)).json() == "quick"


@in_a_loop
async def test_a_body_that_goes_on_after_its_answer_is_no_head() -> None:
    async with serving(Held()) as (server, _):
        reader, writer = await asyncio.open_connection(*server._address)
        writer.write(b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 500000\r\n\r\n")
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)).startswith(b"HTTP/1.1 404")
        for _ in range(10):
            writer.write(b"x" * 50_000)
            await writer.drain()
        writer.write(b"GET /quick HTTP/1.1\r\nhost: x\r\n\r\n")
        assert await asyncio.wait_for(reader.readuntil(b'"quick"'), PATIENCE_S)
        writer.close()


@in_a_loop
async def test_a_head_that_drips_after_an_answer_is_not_waited_for_either() -> None:
    async with serving(Held()) as (server, _):
        reader, writer = await asyncio.open_connection(*server._address)
        writer.write(b"GET /quick HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b'"quick"'), PATIENCE_S)
        now = asyncio.get_running_loop().time()
        server.close_late(now + HEAD_S + 1)
        (connection,) = server.server_state.connections
        assert not connection.transport.is_closing(), "an idle connection is kept"
        writer.write(b"GET /qu")
        async with asyncio.timeout(PATIENCE_S):
            while not connection.is_late(now + 10 * HEAD_S):
                await asyncio.sleep(0.001)
        server.close_late(now + 10 * HEAD_S)
        assert await until_closed(reader) == b""
        writer.close()


@in_a_loop
async def test_a_body_that_stops_coming_is_not_waited_for() -> None:
    async with serving(Held()) as (server, _):
        reader, writer = await asyncio.open_connection(*server._address)
        writer.write(b"POST /size HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n12345")
        await seen_by(server)
        async with asyncio.timeout(PATIENCE_S):
            while not server.server_state.tasks:
                await asyncio.sleep(0.001)
        now = asyncio.get_running_loop().time()
        server.close_late(now + BODY_PAUSE_S - 1)
        writer.write(b"6789")
        assert server.server_state.connections
        server.close_late(now + 2 * BODY_PAUSE_S)
        assert await until_closed(reader) == b""
        writer.close()


@in_a_loop
async def test_a_request_that_takes_long_is_not_late() -> None:
    held = Held()
    async with serving(held) as (server, url), httpx.AsyncClient(base_url=url) as client:
        running = asyncio.create_task(client.get("/held"))
        await held.entered.wait()
        server.close_late(asyncio.get_running_loop().time() + 3600)
        held.let.set()
        assert (await running).json() == "held"
