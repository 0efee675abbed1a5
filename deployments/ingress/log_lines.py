"""The lines that the workers of a model write: followed once for all who read them here, and only while somebody
does."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from itertools import islice

from typing_extensions import TypedDict

from cluster import errors
from cluster.names import cut, quoted
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.status import LOG_LINES, WorkerName

log = logging.getLogger("cluster.ingress")

#: Of all workers of a model together.
MOST_LINES = 10_000
LOOK_S = 1.0
#: After a question that was not answered.
RETRY_S = 3.0
#: Orders to a terminal, such as colours.
ORDERS = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[0-Z\\^-~])")


class LiveLines(TypedDict):
    model: str
    #: All that there are, and not only those that came since.
    whole: bool
    lines: list[str]
    #: Of each line, which replica wrote it.
    replicas: list[int]
    #: To go on from here.
    cursor: str


class LogBook:
    """The last lines of one model, numbered. Pure."""

    def __init__(self, most: int = MOST_LINES) -> None:
        self._lines: deque[tuple[int, str]] = deque(maxlen=most)
        self._tails: dict[str, list[str]] = {}
        #: The number of the next line.
        self.end = 0

    def take(self, tails: Mapping[str, Sequence[str]]) -> bool:
        """The last lines of each worker; none of one that did not answer. False where some are missing, and nothing is
        taken."""
        before = {name: self._tails.get(name, []) for name in tails}
        news = {name: later(before[name], tail) for name, tail in tails.items()}
        if any(before[name] and tail and len(news[name]) == len(tail) for name, tail in tails.items()):
            return False
        self.put(news)
        self._tails = {name: list(tail[-LOG_LINES:]) or before[name] for name, tail in tails.items()}
        return True

    def put(self, news: Mapping[str, Sequence[str]]) -> None:
        for worker, lines in news.items():
            name = WorkerName.parse(worker)
            self._lines.extend((name.index if name else 0, clean(line)) for line in lines)
            self.end += len(lines)

    def begin_anew(self, tails: Mapping[str, Sequence[str]]) -> None:
        """Nobody knows how many lines are missing."""
        self._lines.clear()
        self.end += 1
        self.put(tails)
        self._tails = {name: list(tail[-LOG_LINES:]) for name, tail in tails.items()}

    def since(self, number: int) -> tuple[bool, list[tuple[int, str]]]:
        """The lines from that number on, and whether these are all there are."""
        first = self.end - len(self._lines)
        if number < first or number > self.end:
            return True, list(self._lines)
        return False, list(islice(self._lines, number - first, None))


class LogFollower:
    """Of one model."""

    def __init__(self, supervisor: SupervisorClient, uid: str) -> None:
        self._supervisor = supervisor
        self._uid = uid
        self._book = LogBook()
        self._boot = secrets.token_hex(4)
        self._changed = asyncio.Event()
        #: What was told last, by the numbers that it leads from and to: most readers are told the same.
        self._last: tuple[int, int, LiveLines] | None = None
        self.readers = 0
        #: The model has gone.
        self.is_over = False
        self._task = asyncio.get_running_loop().create_task(self._follow(), name=f"log of {uid}")

    def stop(self) -> None:
        self._task.cancel()

    async def read(self, cursor: str) -> AsyncGenerator[LiveLines]:
        """Until the model has gone."""
        boot, _, number = cursor.partition(".")
        position = int(number) if boot == self._boot and number.isdecimal() and len(number) < 16 else -1
        while True:
            while self._book.end in (position, 0):
                if self.is_over:
                    return
                await self._changed.wait()
            live_lines = self._since(position)
            position = self._book.end
            yield live_lines

    def _since(self, position: int) -> LiveLines:
        if self._last is None or self._last[:2] != (position, self._book.end):
            are_all, lines = self._book.since(position)
            live_lines: LiveLines = {
                "model": self._uid,
                "whole": are_all,
                "lines": [line for _, line in lines],
                "replicas": [replica for replica, _ in lines],
                "cursor": f"{self._boot}.{self._book.end}",
            }
            self._last = (position, self._book.end, live_lines)
        return self._last[2]

    async def _follow(self) -> None:
        while True:
            try:
                await self._look()
                await asyncio.sleep(LOOK_S)
            except errors.UnknownUid:
                self.is_over = True
                self._announce()
                return
            except errors.ClusterError as error:
                log.info("the lines of %s cannot be read, trying again: %s", quoted(self._uid), cut(str(error)))
                await asyncio.sleep(RETRY_S)

    async def _look(self) -> None:
        before = self._book.end
        if not before:
            self._book.begin_anew(await self._tails(MOST_LINES))
        elif not self._book.take(await self._tails(LOG_LINES)):
            self._book.begin_anew(await self._tails(MOST_LINES))
        if self._book.end != before:
            self._announce()

    def _announce(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _tails(self, lines: int) -> Mapping[str, Sequence[str]]:
        try:
            return await self._supervisor.worker_logs(self._uid, lines)
        except errors.UnknownUid:
            raise
        except (errors.BadRequest, AttributeError):
            # A supervisor of an earlier version does not say who wrote what.
            return {"": await self._supervisor.logs(self._uid, lines)}


class LogFollowers:
    """By model, those that somebody reads."""

    def __init__(self, supervisor: SupervisorClient) -> None:
        self._supervisor = supervisor
        self._by_uid: dict[str, LogFollower] = {}

    async def read(self, uid: str, cursor: str) -> AsyncGenerator[LiveLines]:
        follower = self._by_uid.get(uid)
        if follower is None or follower.is_over:
            follower = self._by_uid[uid] = LogFollower(self._supervisor, uid)
        follower.readers += 1
        try:
            async with aclosing(follower.read(cursor)) as reading:
                async for lines in reading:
                    yield lines
        finally:
            follower.readers -= 1
            if not follower.readers:
                follower.stop()
                if self._by_uid.get(uid) is follower:
                    del self._by_uid[uid]


def later(before: Sequence[str], now: Sequence[str]) -> Sequence[str]:
    """What was written after `before`; both are last lines of the same log."""
    if not now:
        return []
    for missing in range(len(before)):
        left = len(before) - missing
        if before[missing] == now[0] and list(before[missing:]) == list(now[:left]):
            return now[left:]
    return now


def clean(line: str) -> str:
    """As it is shown: without orders to a terminal, and without what is no letter."""
    return ORDERS.sub("", line).encode("utf-8", "replace").decode()
