"""Writes the changes of the routing table down, now and then and not on the event loop."""

from __future__ import annotations

import asyncio

from cluster.routes import Amendment, Snapshot
from cluster.runtime.last_table import LastTable

#: At most once in so many seconds.
WRITE_S = 1.0


class TableWriter:
    def __init__(self, last_table: LastTable) -> None:
        self._last_table = last_table
        self._table: Snapshot | None = None
        #: What led to it and is not in the file yet.
        self._unwritten: list[Amendment] = []
        self._writing: asyncio.Task[None] | None = None

    def add(self, change: Amendment, table: Snapshot) -> None:
        """A change, and the table after it."""
        self._unwritten.append(change)
        self._table = table
        if self._writing is None or self._writing.done():
            self._writing = asyncio.ensure_future(self._write())

    async def _write(self) -> None:
        while self._unwritten and self._table is not None:
            changes, self._unwritten = self._unwritten, []
            await asyncio.to_thread(self._last_table.write, self._table, changes)
            await asyncio.sleep(WRITE_S)
