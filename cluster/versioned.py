"""The latest value of something, and a way to wait for a newer one from any event loop or thread.

A long poll on such a value is a lease, a progress feed and a death notice in one: the caller learns of a change at
once, and of the other process's death when the call fails.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Versioned(Generic[T]):
    def __init__(self, value: T, version: int = 0) -> None:
        self._value = value
        self._version = version
        self._lock = threading.Lock()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    @property
    def value(self) -> T:
        return self._value

    @property
    def version(self) -> int:
        return self._version

    def post(self, value: T) -> None:
        self.amend(lambda _: value)

    def amend(self, change: Callable[[T], T]) -> None:
        """Replaces the value by what `change` makes of it, in one step."""
        with self._lock:
            self._value = change(self._value)
            self._version += 1
            waiters, self._waiters = self._waiters, []
        for loop, changed in waiters:
            if not loop.is_closed():
                loop.call_soon_threadsafe(changed.set)

    async def newer(self, version: int, timeout_s: float) -> tuple[int, T]:
        """The value and its version, as soon as that is not the version named, or after the time-out."""
        changed = asyncio.Event()
        entry = (asyncio.get_running_loop(), changed)
        with self._lock:
            if self._version != version:
                return self._version, self._value
            self._waiters.append(entry)
        try:
            async with asyncio.timeout(timeout_s):
                await changed.wait()
        except TimeoutError:
            pass
        finally:
            with self._lock:
                if entry in self._waiters:
                    self._waiters.remove(entry)
        with self._lock:
            return self._version, self._value
