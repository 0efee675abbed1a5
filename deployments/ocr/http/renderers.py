"""The processes that look into documents and draw their pages: bounded in memory and time, and shared fairly by those
who send documents."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import orjson
import psutil

from cluster import environment, errors
from cluster.value import JsonObject
from deployments.ocr.http import rendering

#: Longest that one file may be looked at, or one page be drawn; and while somebody waits who has nothing drawn.
PATIENCE_S = 60.0
HURRY_S = 10.0
#: Between two looks at an order that takes long.
LOOK_S = 0.5
#: A process that keeps more than this after an answer is ended: libraries hold on to what a file made of itself.
KEPT_BYTES = 300_000_000

RenderOrder = JsonObject
Answer = tuple[JsonObject, bytes]


class Lost(Exception):
    """The process ended, or was ended, before it answered."""


class _Child:
    """One process that draws, started with its first order and again with the next after it ended. What it says is
    data and never a program, for it has read what strangers sent. For threads, but for `kill`."""

    def __init__(self, most_bytes: int, kept_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept_bytes = kept_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._ending: Callable[[], object] | None = None

    def ask(self, order: RenderOrder) -> Answer:
        process = self._process or self._started()
        try:
            facts, content = _asked(process, order)
            # What it told is what was asked for, also when it has just ended.
            with contextlib.suppress(psutil.Error):
                if psutil.Process(process.pid).memory_info().rss > self._kept_bytes:
                    self.end()
            return facts, content
        except (OSError, orjson.JSONDecodeError):
            self.end()
            raise Lost from None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def end(self) -> None:
        self._process = None
        if self._ending is not None:
            self._ending()

    def _started(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            # Without its folder in the path, where modules have names that others have too.
            [*environment.ISOLATED, rendering.__file__, str(self._most_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment.for_python(),
        )
        # Nobody can send another order once this object is gone. Called by hand, it is over as well.
        self._ending = weakref.finalize(self, _end, self._process)
        return self._process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with contextlib.suppress(OSError):
        process.communicate()


def _asked(process: subprocess.Popen[bytes], order: RenderOrder) -> Answer:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(orjson.dumps(order) + b"\n")
    process.stdin.flush()
    facts: JsonObject = orjson.loads(process.stdout.readline())
    content = process.stdout.read(facts.pop("bytes"))
    return facts, content


class Turn(NamedTuple):
    caller: str
    order: RenderOrder
    answer: asyncio.Future[Answer]


class Turns:
    """Whose order is next: of those who wait, whoever has the least under way; among these, whoever waits longest."""

    def __init__(self, places: int) -> None:
        self._free = places
        #: By caller; in the order in which they had their last turn.
        self._waiting: dict[str, deque[Turn]] = {}
        self._under_way: dict[str, int] = {}

    def add(self, turn: Turn) -> None:
        self._waiting.setdefault(turn.caller, deque()).append(turn)

    def next(self) -> Turn | None:
        """Takes a place; None when there is none, or nobody waits."""
        if not self._free or not self._waiting:
            return None
        caller = min(self._waiting, key=lambda waiting: self._under_way.get(waiting, 0))
        waiting = self._waiting.pop(caller)
        turn = waiting.popleft()
        if waiting:
            self._waiting[caller] = waiting
        self._free -= 1
        self._under_way[caller] = self._under_way.get(caller, 0) + 1
        return turn

    def done(self, caller: str) -> None:
        self._free += 1
        self._under_way[caller] -= 1
        if not self._under_way[caller]:
            del self._under_way[caller]

    @property
    def somebody_has_nothing(self) -> bool:
        """Whether somebody waits of whose orders none is under way."""
        return any(caller not in self._under_way for caller in self._waiting)


class Renderers:
    def __init__(
        self,
        processes: int,
        most_bytes: int,
        patience_s: float = PATIENCE_S,
        hurry_s: float = HURRY_S,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._patience_s = patience_s
        self._hurry_s = hurry_s
        self._threads = ThreadPoolExecutor(processes, "renderer")
        self._idle = [_Child(most_bytes, kept_bytes) for _ in range(processes)]
        self._turns = Turns(processes)
        self._tasks: set[asyncio.Task[None]] = set()

    async def order(self, name: str, caller: str, **order: Any) -> Answer:
        """What is answered to that, or an error that begins with the name of the file."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._turns.add(Turn(caller, order, answer))
        self._begin()
        try:
            facts, content = await answer
        except Lost as lost:
            raise errors.InvalidBody(f"{name} cannot be read: what reads it {lost}.", "image") from None
        if "refused" in facts:
            kind = errors.TooLarge if facts["is_too_large"] else errors.InvalidBody
            raise kind(f"{name} {facts['refused'].rstrip('.')}.", "image")
        return facts, content

    def _begin(self) -> None:
        while (turn := self._turns.next()) is not None:
            if turn.answer.done():
                # Nobody waits for it any more.
                self._turns.done(turn.caller)
                continue
            task = asyncio.get_running_loop().create_task(self._answer(turn), name="render")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, turn: Turn) -> None:
        child = self._idle.pop()
        work = asyncio.get_running_loop().run_in_executor(self._threads, child.ask, turn.order)
        said = "ended"
        try:
            began = time.monotonic()
            pause_s = min(self._patience_s, self._hurry_s)
            while not (await asyncio.wait([work], timeout=pause_s))[0]:
                seconds = time.monotonic() - began
                is_in_the_way = seconds >= self._hurry_s and (turn.answer.done() or self._turns.somebody_has_nothing)
                if is_in_the_way or seconds >= self._patience_s:
                    said = f"took longer than {seconds:.0f} s" + (" while others waited" if is_in_the_way else "")
                    child.kill()
                pause_s = min(LOOK_S, max(self._patience_s - seconds, LOOK_S / 10))
            answer = work.result()
            if not turn.answer.done():
                turn.answer.set_result(answer)
        except Lost:
            if not turn.answer.done():
                turn.answer.set_exception(Lost(said))
        finally:
            if not work.done():
                # The loop ends; the thread still reads from it.
                child.kill()
            self._idle.append(child)
            self._turns.done(turn.caller)
            self._begin()
