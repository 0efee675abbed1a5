"""Constant requests while things break: how many are answered, fail, or are answered wrongly."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.live import slowness

#: A request that takes longer than this was held until something came back.
HELD_S = 1.0
#: Between an answer and the caller's next request. Callers without a pause take the processor from what is to recover.
PAUSE_S = 0.2
#: How long the worker has a request, which costs nobody anything: of all callers a part is always at the worker.
AT_WORKER_S = 0.05


class Echo:
    """The request that is sent to the model, and the check of its answer."""

    path = "/v1/infer"

    def body(self, model: str, text: str) -> dict[str, Any]:
        return {"model": model, "items": [text, {"sleep": AT_WORKER_S}]}

    def is_right(self, answer: Any, text: str) -> bool:
        return bool(answer["results"][0] == text)


@dataclass
class Traffic:
    ok: int = 0
    failures: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    #: Answered, but after a wait that callers notice.
    held: int = 0
    ask: Echo = field(default_factory=Echo)
    pause_s: float = PAUSE_S
    _stop: threading.Event = field(default_factory=threading.Event)

    def __str__(self) -> str:
        return f"ok {self.ok}, failed {len(self.failures)}, held {self.held}, longest {self.longest_s:.2f} s"

    async def _caller(self, client: aiohttp.ClientSession, url: str, model: str, caller: int) -> None:
        count = 0
        while not self._stop.is_set():
            count += 1
            text = f"{caller}-{count}"
            started = time.monotonic()
            try:
                async with client.post(url, json=self.ask.body(model, text)) as answer:
                    if answer.status == 200 and self.ask.is_right(await answer.json(), text):
                        self.ok += 1
                        self.held += time.monotonic() - started > HELD_S
                    else:
                        self.failures.append(f"{answer.status} {(await answer.text())[:200]}")
            except (aiohttp.ClientError, TimeoutError) as error:
                self.failures.append(repr(error))
            self.longest_s = max(self.longest_s, time.monotonic() - started)
            await asyncio.sleep(self.pause_s)

    async def call(self, url: str, model: str, callers: int, key: str = "") -> None:
        """With a client that takes little of the processor, which belongs to what is to recover."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(60), connector=aiohttp.TCPConnector(limit=callers), headers=headers
        ) as client:
            await asyncio.gather(*(self._caller(client, url, model, number) for number in range(callers)))


@contextmanager
def traffic(
    url: str, model: str, callers: int = 32, ask: Echo | None = None, pause_s: float = PAUSE_S
) -> Iterator[Traffic]:
    """Callers that each send the next request soon after the last one is answered, until the block ends.

    Some are answered before the block begins and some after it, or the test fails.
    """
    seen = Traffic(ask=ask or Echo(), pause_s=pause_s)
    thread = threading.Thread(target=lambda: asyncio.run(seen.call(url + seen.ask.path, model, callers)))
    thread.start()
    try:
        deadline = time.monotonic() + 20 * slowness()
        while seen.ok < callers:
            assert time.monotonic() < deadline, f"no answers before the first fault: {seen}"
            threading.Event().wait(0.02)
        yield seen
        # Requests after the last fault count as well.
        before, deadline = seen.ok, time.monotonic() + 60 * slowness()
        while seen.ok < before + callers:
            assert time.monotonic() < deadline, f"no more answers after the last fault: {seen}"
            threading.Event().wait(0.02)
    finally:
        seen._stop.set()
        thread.join(90)
