"""One question for all who ask it within a while: pages that many people have open cost what one does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

#: The oldest answer that anybody is given, and how many answers are kept for so long.
OLDEST_S = 5.0
MOST_KEPT = 100


class SharedAnswers(Generic[K, T]):
    def __init__(self, ask: Callable[[K], Awaitable[T]]) -> None:
        self._ask = ask
        #: When each question was put, and its answer. The latest is last.
        self._asked: dict[K, tuple[float, asyncio.Task[T]]] = {}

    async def answer(self, question: K, max_age_s: float) -> T:
        """One that was asked for no longer ago than that. A caller who leaves does not end it for the others."""
        now = asyncio.get_running_loop().time()
        return await self._asked_since(question, now - min(max_age_s, OLDEST_S))

    async def new_answer(self, question: K, pause_s: float) -> T:
        """One that is not asked for before now. It is asked for at most once in a pause, however many want it."""
        now = asyncio.get_running_loop().time()
        if question in self._asked:
            await asyncio.sleep(self._asked[question][0] + pause_s - now)
        return await self._asked_since(question, now)

    async def _asked_since(self, question: K, since: float) -> T:
        loop = asyncio.get_running_loop()
        asked_at, task = self._asked.get(question, (-OLDEST_S, None))
        if task is None or asked_at < since or _has_failed(task):
            task = loop.create_task(self._answered(question))
            self._asked.pop(question, None)
            self._asked[question] = loop.time(), task
            self._forget(loop.time())
        return await asyncio.shield(task)

    async def _answered(self, question: K) -> T:
        return await self._ask(question)

    def _forget(self, now: float) -> None:
        while self._asked:
            question, (asked_at, _) = next(iter(self._asked.items()))
            if now - asked_at <= OLDEST_S and len(self._asked) <= MOST_KEPT:
                return
            del self._asked[question]


def _has_failed(task: asyncio.Task[T]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
