"""Constant conversations while things break: how many answers are whole, fail before their first piece, or after it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp

from tests.live import until

PATIENCE_S = 90


@dataclass
class Talkers:
    """Callers who each ask for the next answer as soon as they have had one."""

    url: str
    model: str
    max_tokens: int
    whole: int = 0
    #: What was said to those who had had no piece; none of them should have noticed anything.
    before: list[str] = field(default_factory=list)
    #: What was said to the others, and how long after their last piece.
    after: list[tuple[float, str]] = field(default_factory=list)
    texts: set[str] = field(default_factory=set)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __str__(self) -> str:
        late = max((seconds for seconds, _ in self.after), default=0.0)
        return (
            f"whole {self.whole}, failed before the first piece {len(self.before)}, after it {len(self.after)}, "
            f"told {late:.2f} s after the last piece at most"
        )

    async def run(self, callers: int) -> None:
        timeout = aiohttp.ClientTimeout(PATIENCE_S)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=callers)) as client:
            await asyncio.gather(*(self._caller(client) for _ in range(callers)))

    async def _caller(self, client: aiohttp.ClientSession) -> None:
        body = {"model": self.model, "prompt": "The capital of France is", "temperature": 0, "stream": True}
        while not self._stop.is_set():
            text, heard_at, error, is_done = "", 0.0, "", False
            try:
                async with client.post(
                    f"{self.url}/v1/completions", json={**body, "max_tokens": self.max_tokens, "ignore_eos": True}
                ) as answer:
                    if answer.status != 200:
                        error = f"{answer.status} {(await answer.text())[:200]}"
                    async for line in answer.content:
                        data = line.decode().removeprefix("data: ").strip()
                        if not line.startswith(b"data: ") or error:
                            continue
                        if data == "[DONE]":
                            is_done = True
                        elif "error" in (event := json.loads(data)):
                            error = event["error"]["message"]
                        elif event["choices"] and event["choices"][0]["text"]:
                            text, heard_at = text + event["choices"][0]["text"], time.monotonic()
            except (aiohttp.ClientError, TimeoutError) as reason:
                error = repr(reason)
            if not error and is_done:
                self.whole += 1
                self.texts.add(text)
            elif text:
                self.after.append((time.monotonic() - heard_at, error or "it stopped"))
            else:
                self.before.append(error or "it said nothing")


@contextmanager
def talkers(url: str, model: str, callers: int, max_tokens: int) -> Iterator[Talkers]:
    """Some answers are whole before the block begins and some after it, or the test fails."""
    talking = Talkers(url, model, max_tokens)
    thread = threading.Thread(target=lambda: asyncio.run(talking.run(callers)))
    thread.start()
    try:
        until(lambda: talking.whole >= callers, within=PATIENCE_S, why="no answers before the fault")
        yield talking
        before = talking.whole
        until(lambda: talking.whole >= before + callers, within=PATIENCE_S, why="no answers after the fault")
    finally:
        talking._stop.set()
        thread.join(PATIENCE_S)
