"""The outcomes of calls that came in one message: the first to be there go back at once, the others are collected."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cluster import errors
from cluster.calls import Answer

#: How long an answer waits for the ingress to collect it.
COLLECT_S = 30.0

Outcome = Answer | errors.ClusterError


class Uncollected:
    """Calls that were taken while others of the same message were refused."""

    def __init__(self) -> None:
        self._taken: dict[str, asyncio.Task[Outcome]] = {}

    def taken(self, ids: Sequence[str]) -> list[tuple[str, asyncio.Task[Outcome]]]:
        return [(id, self._taken.pop(id)) for id in ids]

    async def first_of(self, answering: Sequence[tuple[str, asyncio.Task[Outcome]]]) -> list[Outcome | None]:
        """Waits for all, or for a refusal; None stands for a call that is to be collected."""
        left, is_enough = len(answering), asyncio.Event()

        def look(task: asyncio.Task[Outcome]) -> None:
            nonlocal left
            left -= 1
            if not left or (not task.cancelled() and isinstance(task.result(), errors.Overloaded)):
                is_enough.set()

        for _, task in answering:
            task.add_done_callback(look)
        try:
            await is_enough.wait()
            # Other refusals are decided in the same turn of the loop.
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            for _, task in answering:
                task.cancel()
            raise
        loop = asyncio.get_running_loop()
        outcomes: list[Outcome | None] = []
        for id, task in answering:
            outcomes.append(task.result() if task.done() else None)
            if not task.done():
                self._taken[id] = task
                # Nobody collects for an ingress that has died.
                loop.call_later(COLLECT_S, self._drop, id, task)
        return outcomes

    def _drop(self, id: str, task: asyncio.Task[Outcome]) -> None:
        if self._taken.get(id) is task:
            self._taken.pop(id).cancel()
