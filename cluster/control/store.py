"""What must survive everything: wanted models, registrations, keys, the epoch, and the events people read afterwards.

Nothing about running processes is stored: that is observed. `Store` is all that the supervisor asks of a database;
`StoreThread` asks it without holding up the supervisor's event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, ParamSpec, Protocol, TypeVar

from cluster.status import Event
from cluster.value import JsonObject

log = logging.getLogger("cluster.control.store")
P = ParamSpec("P")
R = TypeVar("R")

#: Events of the cluster itself have no model's uid.
ITSELF = ""
#: Wanted models (called wishes in files of every version), the same as they last were READY, registered entries, keys,
#: the highest numbers given out, and what launches were measured to take.
Kind = Literal["wish", "ready", "entry", "key", "number", "peak"]


class Store(Protocol):
    """A write is durable when the call returns. One that is refused raises OutOfSpace or Unavailable and has changed
    nothing. Calls may block; they come from one thread at a time."""

    @property
    def place(self) -> str:
        """Where it is, for messages."""

    def put(self, kind: Kind, key: str, value: Any) -> None: ...

    def delete(self, kind: Kind, key: str, *others: Kind) -> bool:
        """Whether there was something of that kind. What the other kinds hold under the same key is deleted as well."""

    def all(self, kind: Kind) -> JsonObject:
        """Everything of a kind by its key; a damaged row as the text that it holds."""

    def number(self, of: str) -> int:
        """The last one that was given out; 0 before the first."""

    def next_number(self, of: str, at_least: int = 0) -> int:
        """A number above every earlier one, also after a restart, so that what carries an older one is recognised."""

    def add_event(self, event: Event) -> None:
        """Not durable: an event that cannot be written is left out."""

    def events(self, uid: str) -> list[Event]: ...

    def free_bytes(self) -> int | None:
        """What is left on its disk; None where that is unknown."""


class StoreThread:
    """Runs the calls of a store one after another on a thread, in the order in which they were made.

    A write waits for the disk, and a disk may take seconds: on the event loop nobody would hear of a worker's death
    meanwhile.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")

    @property
    def place(self) -> str:
        return self._store.place

    async def put(self, kind: Kind, key: str, value: Any) -> None:
        await self._run(self._store.put, kind, key, value)

    async def delete(self, kind: Kind, key: str, *others: Kind) -> bool:
        return await self._run(self._store.delete, kind, key, *others)

    async def all(self, kind: Kind) -> JsonObject:
        return await self._run(self._store.all, kind)

    async def number(self, of: str) -> int:
        return await self._run(self._store.number, of)

    async def next_number(self, of: str, at_least: int = 0) -> int:
        return await self._run(self._store.next_number, of, at_least)

    def add_event(self, event: Event) -> None:
        """Returns at once. The event is there for every later call of `events`."""
        self._thread.submit(self._add_event, event)

    def _add_event(self, event: Event) -> None:
        try:
            self._store.add_event(event)
        # No caller waits for this, so none would see the error.
        except Exception:
            log.exception("an event was not written: %s", event.text)

    async def events(self, uid: str) -> list[Event]:
        return await self._run(self._store.events, uid)

    async def free_bytes(self) -> int | None:
        """Not in the queue: where a disk does not answer this, it may still take writes."""
        return await asyncio.to_thread(self._store.free_bytes)

    async def settled(self) -> None:
        """Returns once everything asked for so far is done."""
        await self._run(lambda: None)

    async def _run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: call(*args, **kwargs))
