"""Starts a real browser and serves foreign pages to it; the pages report what they were able to do."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

NAMES = ("chromium-headless-shell", "chromium", "google-chrome")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--no-proxy-server"),
)
PATIENCE_S = 60.0


def browser() -> str:
    """The path of the browser. Without one the test is skipped, except where every test must run."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        missing = f"no browser is installed ({' or '.join(NAMES)}): what pages can do is not tried"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    return path  # type: ignore[return-value]


@asynccontextmanager
async def hosted(page: str, name: str = "localhost") -> AsyncIterator[tuple[str, asyncio.Queue[str]]]:
    """The origin at which the page is served, and a list of the texts that it reports with `GET /told?<text>`."""
    told: asyncio.Queue[str] = asyncio.Queue()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).decode().split(" ")[1]
        if path.startswith("/told?"):
            told.put_nowait(unquote(path.partition("?")[2]))
        body = page.encode() if path == "/" else b""
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://{name}:{server.sockets[0].getsockname()[1]}", told
    finally:
        server.close()


@asynccontextmanager
async def visited(address: str, name: str = "localhost") -> AsyncIterator[None]:
    """Opens the page in a new browser that resolves that name to this machine."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        words = (*QUIET, f"--host-resolver-rules=MAP {name} 127.0.0.1", f"--user-data-dir={profile}")
        process = await asyncio.create_subprocess_exec(
            *(browser(), *words, "--remote-debugging-port=0", address),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            yield
        finally:
            process.terminate()
            await process.wait()


class Page:
    """A page watched by a debugger: what it requested, the errors on its console, and what it shows."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reading = asyncio.create_task(self._read())
        self.requests: list[str] = []
        self.complaints: list[str] = []

    async def _read(self) -> None:
        async for text in self._socket:
            message = json.loads(text)
            params = message.get("params", {})
            match message.get("method"):
                case None:
                    self._answers.pop(message["id"]).set_result(message)
                case "Network.requestWillBeSent":
                    self.requests.append(params["request"]["url"])
                case "Log.entryAdded" if params["entry"]["level"] == "error":
                    self.complaints.append(params["entry"]["text"])
                case "Runtime.consoleAPICalled" if params["type"] == "error":
                    self.complaints.append(str(params["args"]))
                case "Runtime.exceptionThrown":
                    self.complaints.append(str(params["exceptionDetails"]))

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        id = next(self._ids)
        answer = self._answers[id] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"id": id, "method": method, "params": params}))
        message = await asyncio.wait_for(answer, PATIENCE_S)
        assert "error" not in message, message
        result: dict[str, Any] = message["result"]
        return result

    async def value(self, expression: str) -> Any:
        """The value of an expression of JavaScript on the page."""
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return result["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Waits until the expression is true, and returns its value."""
        async with asyncio.timeout(PATIENCE_S):
            while not (value := await self.value(expression)):
                await asyncio.sleep(0.05)
        return value

    async def picture(self) -> bytes:
        """A screenshot of the page as PNG."""
        return base64.b64decode((await self.call("Page.captureScreenshot"))["data"])

    def close(self) -> None:
        self._reading.cancel()


@asynccontextmanager
async def opened_page(address: str) -> AsyncIterator[Page]:
    """The page at that address, watched from before its first request."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            *(browser(), *QUIET, f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            port = await _debugging_port(Path(profile) / "DevToolsActivePort")
            async with httpx.AsyncClient(trust_env=False) as client:
                targets = (await client.get(f"http://127.0.0.1:{port}/json/list")).json()
            target = next(target for target in targets if target["type"] == "page")
            async with connect(target["webSocketDebuggerUrl"], max_size=None, proxy=None) as socket:
                page = Page(socket)
                try:
                    for domain in ("Network", "Log", "Runtime", "Page"):
                        await page.call(f"{domain}.enable")
                    await page.call("Page.navigate", url=address)
                    yield page
                finally:
                    page.close()
        finally:
            process.terminate()
            await process.wait()


async def _debugging_port(file: Path) -> int:
    async with asyncio.timeout(PATIENCE_S):
        while not file.exists() or not file.read_text().strip():
            await asyncio.sleep(0.05)
    return int(file.read_text().split()[0])
