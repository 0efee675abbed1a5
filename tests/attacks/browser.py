"""A real browser, and pages of strangers for it, which say what they saw."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import unquote

import pytest

NAMES = ("chromium-headless-shell", "chromium", "google-chrome")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--no-proxy-server"),
)
PATIENCE_S = 60.0


def browser() -> str:
    """Its path. Where there is none the test is left out, but not where all must run."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        missing = f"no browser is installed ({' or '.join(NAMES)}): what pages can do is not tried"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    return path


@asynccontextmanager
async def hosted(page: str, name: str = "localhost") -> AsyncIterator[tuple[str, asyncio.Queue[str]]]:
    """The origin of a page, and what it tells by `GET /told?<text>`."""
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
    """In a new browser, to which that name leads to this machine."""
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
