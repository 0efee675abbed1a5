"""The same question to many workers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from cluster.runtime.worker_client import WorkerClient

T = TypeVar("T")

#: Workers that are asked at once: each answer takes the time of this loop when it comes.
AT_ONCE = 32


async def asked(clients: Iterable[WorkerClient], ask: Callable[[WorkerClient], Awaitable[T]]) -> list[T]:
    """Their answers, in the same order."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def answer(client: WorkerClient) -> T:
        async with turns:
            return await ask(client)

    return await asyncio.gather(*map(answer, clients))
