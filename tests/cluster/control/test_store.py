from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from cluster import errors
from cluster.control.sqlite_store import SqliteStore
from cluster.control.store import Row, Store, StoreThread
from cluster.status import Event


class SlowStore(SqliteStore):
    """A store whose writes wait while `gate` is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.threads: set[int] = set()
        #: How many rows each had.
        self.writes: list[int] = []

    def put_all(self, rows: Sequence[Row]) -> None:
        self.gate.wait(5)
        self.threads.add(threading.get_ident())
        self.writes.append(len(rows))
        super().put_all(rows)


def event(text: str) -> Event:
    return Event(ts=0.0, level="INFO", uid="m", text=text)


def test_sqlite_is_one_of_the_stores() -> None:
    store: Store = SqliteStore()
    assert store.all("wish") == {}


def test_a_write_that_takes_its_time_does_not_hold_the_event_loop() -> None:
    async def scene() -> None:
        store = SlowStore()
        writing = asyncio.ensure_future(StoreThread(store).put_all([("wish", "m", {"replica": 1})]))
        before = time.monotonic()
        await asyncio.sleep(0.01)
        assert time.monotonic() - before < 1.0 and not writing.done()
        store.gate.set()
        await writing
        assert store.all("wish") == {"m": {"replica": 1}}
        assert store.threads and threading.get_ident() not in store.threads

    asyncio.run(scene())


def test_calls_are_carried_out_in_the_order_in_which_they_were_made() -> None:
    async def scene() -> None:
        store = SlowStore()
        thread = StoreThread(store)
        calls = [thread.put_all([("wish", "m", number)]) for number in range(20)]
        calls += [thread.delete("wish", "m"), thread.put_all([("wish", "m", "last")])]  # type: ignore[list-item]
        waiting = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(0)
        thread.add_event(event("after them"))
        reading = asyncio.ensure_future(thread.events("m"))
        store.gate.set()
        assert [found.text for found in await reading] == ["after them"]
        assert all(call.done() for call in waiting)
        assert await thread.all("wish") == {"m": "last"}
        assert sum(store.writes) == 21 and store.writes[-1] == 1
        assert len(store.writes) <= 3, "what waited behind the first write was one write"

    asyncio.run(scene())


def test_a_refused_write_raises_for_whoever_asked_for_it() -> None:
    class Full(SqliteStore):
        def put_all(self, rows: Sequence[Row]) -> None:
            raise errors.OutOfSpace("The disk is full.")

    async def scene() -> None:
        with pytest.raises(errors.OutOfSpace):
            await StoreThread(Full()).put_all([("wish", "m", {})])

    asyncio.run(scene())


def test_an_event_that_cannot_be_written_is_no_reason_to_stop() -> None:
    class Broken(SqliteStore):
        def add_events(self, events: Sequence[Event]) -> None:
            raise RuntimeError("no such table")

    async def scene() -> None:
        thread = StoreThread(Broken())
        thread.add_event(event("lost"))
        await thread.put_all([("wish", "m", 1)])
        assert await thread.events("m") == []

    asyncio.run(scene())


def test_settled_means_that_everything_is_written() -> None:
    async def scene() -> None:
        store = SqliteStore()
        thread = StoreThread(store)
        thread.add_event(event("written"))
        await thread.settled()
        assert [found.text for found in store.events("m")] == ["written"]

    asyncio.run(scene())
