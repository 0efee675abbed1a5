"""What the supervisor writes down: changes in turn, events in passing, and later what a full disk does not take now."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from cluster import errors
from cluster.control.store import ITSELF, Kind, Row, Store, StoreThread
from cluster.status import Event, EventLevel, EventQuery
from cluster.value import JsonObject, Value

log = logging.getLogger("cluster.control.records")
R = TypeVar("R")
V = TypeVar("V", bound=Value)
#: With less than this left on its disk the cluster warns, while there is still room for the warning.
LOW_SPACE_BYTES = 500_000_000


class Records:
    """Takes an epoch for its supervisor when it is made, before there is an event loop to hold up."""

    def __init__(self, store: Store, wall_clock: Callable[[], float]) -> None:
        self._store = StoreThread(store)
        self._wall_clock = wall_clock
        #: Held while something changes: between the check and the change the store is waited for.
        self._changes = asyncio.Lock()
        #: Changes that were checked and are being written.
        self._writing: set[asyncio.Future[Any]] = set()
        #: The highest numbers given out.
        self._numbers: dict[str, int] = {}
        #: What the store should hold and could not be written yet.
        self._unsaved: dict[tuple[Kind, str], Any] = {}
        self._saving: asyncio.Task[None] | None = None
        self.epoch = self._next_epoch(store)

    def _next_epoch(self, store: Store) -> int:
        """Above every earlier one. Where it cannot be written down at once, the clock has to do."""
        at_least = int(self._wall_clock())
        try:
            return store.next_number("epoch", at_least)
        except errors.OutOfSpace as error:
            log.error("going on without it: %s", error)
            epoch = max(store.number("epoch") + 1, at_least)
            self._unsaved["number", "epoch"] = epoch
            return epoch

    async def alone(self, change: Coroutine[Any, Any, R]) -> R:
        """One change after another, and each to its end, also when its caller goes away in the middle of it."""

        async def in_turn() -> R:
            async with self._changes:
                await self.all_written()
                return await change

        return await asyncio.shield(asyncio.ensure_future(in_turn()))

    async def together(self, check: Coroutine[Any, Any, Coroutine[Any, Any, R]]) -> R:
        """Changes that are checked one after another and then written together, as long as nothing else changes.
        `check` returns what is left to do once it has found nothing against it."""

        async def in_turn() -> R:
            async with self._changes:
                writing = asyncio.ensure_future(await check)
                self._writing.add(writing)
                writing.add_done_callback(self._writing.discard)
            return await writing

        return await asyncio.shield(asyncio.ensure_future(in_turn()))

    async def all_written(self) -> None:
        """Returns once no change is under way that was checked before."""
        while self._writing:
            await asyncio.wait(set(self._writing))

    # ------------------------------------------------------------------------------------ reading

    async def all(self, kind: Kind) -> JsonObject:
        return await self._store.all(kind)

    async def readable(self, kind: Kind, schema: type[V]) -> dict[str, V]:
        return self.validated(kind, await self._store.all(kind), schema)

    def validated(self, kind: Kind, stored: Mapping[str, Any], schema: type[V]) -> dict[str, V]:
        """Rows as values. One of another version, or a damaged one, is reported and left where it is: it must never
        keep the supervisor from coming up."""
        values = {}
        for key, row in stored.items():
            try:
                values[key] = schema.model_validate(row)
            except ValueError as error:
                self.tell(key, "ERROR", f"The stored {kind} cannot be read and is left out: {error}")
        return values

    # ------------------------------------------------------------------------------------ writing

    async def put(self, kind: Kind, key: str, value: Any) -> None:
        await self.put_all([(kind, key, value)])

    async def put_all(self, rows: Sequence[Row]) -> None:
        """All of them or none, in one write with what others want written at this moment."""
        older = {row[:2]: self._unsaved.pop(row[:2]) for row in rows if row[:2] in self._unsaved}
        try:
            await self._store.put_all(rows)
        # Refused or cancelled, what should be stored before is still to be stored.
        except BaseException:
            self._unsaved = {**older, **self._unsaved}
            raise

    async def delete(self, kind: Kind, key: str, *others: Kind) -> bool:
        was_there = await self._store.delete(kind, key, *others)
        for each in (kind, *others):
            self._unsaved.pop((each, key), None)
        return was_there

    async def next_number(self, of: str, at_least: int) -> int:
        """Above every one before. The caller writes it down, as `number_row`, together with what it numbers."""
        if of not in self._numbers:
            # Others may have asked meanwhile, and been given the next ones.
            self._numbers.setdefault(of, await self._store.number(of))
        self._numbers[of] = max(self._numbers[of] + 1, at_least)
        return self._numbers[of]

    def number_row(self, of: str) -> Sequence[Row]:
        """None where none of these has been given out."""
        return [("number", of, self._numbers[of])] if of in self._numbers else []

    def put_later(self, kind: Kind, key: str, value: Any) -> None:
        """Written with the next tick at which the disk takes it."""
        self._unsaved[kind, key] = value

    async def raise_later(self, of: str, number: int) -> None:
        """The next number of these is to be above this one."""
        stored = await self._store.number(of)
        self._numbers[of] = max(number, stored, self._numbers.get(of, 0))
        self._unsaved["number", of] = self._numbers[of]

    def is_unsaved(self, kind: Kind, key: str) -> bool:
        return (kind, key) in self._unsaved

    def save(self) -> None:
        """Writes in the background what is still unsaved."""
        if self._unsaved and (self._saving is None or self._saving.done()):
            self._saving = asyncio.ensure_future(self._save())

    async def _save(self) -> None:
        try:
            async with self._changes:
                await self.put_all([(*row, value) for row, value in self._unsaved.items()])
        except (errors.OutOfSpace, errors.Unavailable) as error:
            log.debug("not written yet: %s", error)

    async def stop(self) -> None:
        if self._saving is not None:
            self._saving.cancel()
            await asyncio.gather(self._saving, return_exceptions=True)
        await self._store.settled()

    # ------------------------------------------------------------------------------------ events

    def tell(self, uid: str, level: EventLevel, text: str) -> None:
        """In the log, and among the events of that model."""
        log.log(getattr(logging, level), "%s: %s", uid, text)
        self._store.add_event(Event(ts=self._wall_clock(), level=level, uid=uid, text=text))

    async def events(self, uid: str) -> list[Event]:
        return await self._store.events(uid)

    async def recent_events(self, query: EventQuery) -> list[Event]:
        return await self._store.recent_events(query)

    # ------------------------------------------------------------------------------------ the disk

    @property
    def place(self) -> str:
        return self._store.place

    async def free_bytes(self) -> int | None:
        return await self._store.free_bytes()


class DiskWatch:
    """Warns once when the disk of the store fills up, and once when there is room again."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._looking: asyncio.Task[None] | None = None
        self._is_low = False
        self.free_bytes: int | None = None

    def look(self) -> None:
        """In the background: a disk in the network may not answer."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        free = self.free_bytes = await self._records.free_bytes()
        was_low, self._is_low = self._is_low, free is not None and free < LOW_SPACE_BYTES
        if self._is_low and not was_low:
            self._records.tell(
                ITSELF,
                "WARNING",
                f"Only {(free or 0) / 1e6:,.0f} MB are free beside {self._records.place}: once it is full, what runs "
                "goes on and is replaced when it dies, but nothing can be launched, scaled or terminated.",
            )
        elif was_low and not self._is_low:
            self._records.tell(ITSELF, "INFO", f"There is room again beside {self._records.place}.")

    async def stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
