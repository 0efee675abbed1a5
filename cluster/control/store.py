"""What must survive everything: wanted models, registrations, keys, the epoch, and the events people read afterwards.

Nothing about running processes is stored: that is observed. `Store` is all that the supervisor asks of a database;
`StoreThread` asks it without holding up the supervisor's event loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, ParamSpec, Protocol, TypeVar

from cluster.status import Event, EventQuery
from cluster.value import JsonObject

log = logging.getLogger("cluster.control.store")
P = ParamSpec("P")
R = TypeVar("R")

#: Events of the cluster itself have no model's uid.
ITSELF = ""
#: Wanted models (called wishes in files of every version), the same as they last were READY, registered entries, keys,
#: the highest numbers given out, what launches were measured to take, the nodes that people closed, which models sleep,
#: how many replicas the load of others has brought about, and what models return to whose new version is on trial.
Kind = Literal["wish", "ready", "entry", "key", "number", "peak", "node", "rest", "scale", "canary"]
#: Kind, key and value.
Row = tuple[Kind, str, Any]


class Store(Protocol):
    """A write is durable when the call returns. One that is refused raises OutOfSpace or Unavailable and has changed
    nothing. Calls may block; they come from one thread at a time."""

    @property
    def place(self) -> str:
        """Where it is, for messages."""

    def put_all(self, rows: Sequence[Row]) -> None:
        """All of them or none; of several for one key the last one counts."""

    def delete(self, kind: Kind, key: str, *others: Kind) -> bool:
        """Whether there was something of that kind. What the other kinds hold under the same key is deleted as well."""

    def all(self, kind: Kind) -> JsonObject:
        """Everything of a kind by its key; a damaged row as the text that it holds."""

    def number(self, of: str) -> int:
        """The last one that was given out; 0 before the first."""

    def next_number(self, of: str, at_least: int = 0) -> int:
        """A number above every earlier one, also after a restart, so that what carries an older one is recognised."""

    def add_events(self, events: Sequence[Event]) -> None:
        """Not durable: an event that cannot be written is left out."""

    def events(self, uid: str) -> list[Event]: ...

    def recent_events(self, query: EventQuery) -> list[Event]:
        """With their ids, the newest first."""

    def free_bytes(self) -> int | None:
        """What is left on its disk; None where that is unknown."""


class _Group:
    """What is asked to be written while the store is busy, and is then written at once: a disk takes as long for one
    row as for a hundred."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._events: list[Event] = []
        self._is_open = True
        self._lock = threading.Lock()
        self.written: Future[None] = Future()

    def add(self, rows: Sequence[Row], events: Sequence[Event]) -> bool:
        """False when it is too late."""
        with self._lock:
            if self._is_open:
                self._rows += rows
                self._events += events
            return self._is_open

    def close(self) -> tuple[Sequence[Row], Sequence[Event]]:
        with self._lock:
            self._is_open = False
            return self._rows, self._events


class StoreThread:
    """Runs the calls of a store one after another on a thread, in the order in which they were made; writes that wait
    for their turn one behind the other become one.

    A write waits for the disk, and a disk may take seconds: on the event loop nobody would hear of a worker's death
    meanwhile.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._last: _Group | None = None

    @property
    def place(self) -> str:
        return self._store.place

    async def put_all(self, rows: Sequence[Row]) -> None:
        written = asyncio.wrap_future(self._join(rows, ()).written)
        # Of a caller that has gone away nobody else takes the error.
        written.add_done_callback(lambda future: future.cancelled() or future.exception())
        # Others wait for the same write, so whoever goes away must not take it along.
        await asyncio.shield(written)

    def _join(self, rows: Sequence[Row], events: Sequence[Event]) -> _Group:
        group = self._last
        if group is None or not group.add(rows, events):
            group = self._last = _Group()
            group.add(rows, events)
            self._thread.submit(self._write, group)
        return group

    def _write(self, group: _Group) -> None:
        rows, events = group.close()
        try:
            if rows:
                self._store.put_all(rows)
        # Each of those who wait is told.
        except Exception as error:
            group.written.set_exception(error)
        else:
            group.written.set_result(None)
        try:
            if events:
                self._store.add_events(events)
        # No caller waits for this, so none would see the error.
        except Exception:
            log.exception("%d events were not written, the first: %s", len(events), events[0].text)

    async def delete(self, kind: Kind, key: str, *others: Kind) -> bool:
        return await self._run(self._store.delete, kind, key, *others)

    async def all(self, kind: Kind) -> JsonObject:
        return await self._run(self._store.all, kind)

    async def number(self, of: str) -> int:
        return await self._run(self._store.number, of)

    def add_event(self, event: Event) -> None:
        """Returns at once. The event is there for every later call of `events`."""
        self._join((), (event,))

    async def events(self, uid: str) -> list[Event]:
        return await self._run(self._store.events, uid)

    async def recent_events(self, query: EventQuery) -> list[Event]:
        return await self._run(self._store.recent_events, query)

    async def free_bytes(self) -> int | None:
        """Not in the queue: where a disk does not answer this, it may still take writes."""
        return await asyncio.to_thread(self._store.free_bytes)

    async def settled(self) -> None:
        """Returns once everything asked for so far is done."""
        await self._run(lambda: None)

    async def _run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        # What is written later is not to be written before this.
        self._last = None
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: call(*args, **kwargs))
