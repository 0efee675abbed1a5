"""The store as SQLite keeps it: one file for what is wanted, and one beside it for events."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cluster import errors
from cluster.control.store import Kind, Row
from cluster.status import Event, EventQuery
from cluster.value import JsonObject

log = logging.getLogger("cluster.control.store")

#: Events kept per model, and of all models together.
EVENTS_KEPT = 100
ALL_EVENTS_KEPT = 50_000

SCHEMA = "CREATE TABLE IF NOT EXISTS wishes (kind TEXT, key TEXT, value TEXT NOT NULL, PRIMARY KEY (kind, key))"
_EVENTS_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, ts REAL, level TEXT, uid TEXT, text TEXT);
CREATE INDEX IF NOT EXISTS events_of ON events (uid, id);
"""

#: SQLite's codes for a file that cannot be written now, and for one that another process is writing.
_UNWRITABLE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}


class SqliteStore:
    """SQLite; `:memory:` in tests. Each write is one transaction, on disk when the call returns.

    A refused write raises OutOfSpace and changes nothing. Events have a file of their own and are written without
    waiting for the disk; an event that cannot be written is left out.
    """

    def __init__(self, path: Path | str = ":memory:") -> None:
        self.path = None if path == ":memory:" else Path(path)
        self._events_are_lost = False
        self._lock = threading.Lock()
        with self._writing("The store"):
            self._db = _connected(self.path)
            # An older version's write-ahead log can only be given up while nobody else has it open.
            with suppress(sqlite3.OperationalError):
                # All is in one file at any moment, and it opens on a full disk; with a write-ahead log neither holds.
                self._db.execute("PRAGMA journal_mode=PERSIST")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(SCHEMA)
        self._past = self._opened_events()
        self._take_over_old_events()

    def _opened_events(self) -> sqlite3.Connection:
        """In memory when their file cannot be opened: events must never keep the supervisor from coming up."""
        try:
            past = _connected(self.path and events_beside(self.path))
            past.execute("PRAGMA journal_mode=PERSIST")
            past.execute("PRAGMA synchronous=OFF")
            past.executescript(_EVENTS_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            log.error("events are kept in memory only: %s", error)
            past = _connected(None)
            past.executescript(_EVENTS_SCHEMA)
        return past

    def _take_over_old_events(self) -> None:
        """Older versions kept them in the same file as everything else."""
        try:
            if self._db.execute("SELECT 1 FROM sqlite_master WHERE name='events'").fetchone():
                rows = self._db.execute("SELECT ts, level, uid, text FROM events ORDER BY id").fetchall()
                self._past.executemany("INSERT INTO events (ts, level, uid, text) VALUES (?, ?, ?, ?)", rows)
                self._db.execute("DROP TABLE events")
        except sqlite3.Error as error:
            log.warning("events of an older version are left where they are: %s", error)

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Turns SQLite's errors into ones that say what to do."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if code_of(error) in _BUSY:
                raise errors.Unavailable(
                    f"{what} cannot be written now: {error}. Try again.", retry_after_s=1.0
                ) from error
            if code_of(error) in _UNWRITABLE:
                free = self.free_bytes()
                room = "" if free is None else f", {free / 1e6:,.0f} MB are free"
                raise errors.OutOfSpace(
                    f"{what} cannot be written to {self.path} ({error}{room}); nothing was changed, "
                    "make room there and try again."
                ) from error
            raise

    @property
    def place(self) -> str:
        return str(self.path)

    def free_bytes(self) -> int | None:
        try:
            return None if self.path is None else shutil.disk_usage(self.path.parent).free
        except OSError:
            return None

    def put(self, kind: Kind, key: str, value: Any) -> None:
        self.put_all([(kind, key, value)])

    def put_all(self, rows: Sequence[Row]) -> None:
        """One transaction, however many they are."""
        written = [(kind, key, json.dumps(value)) for kind, key, value in rows]
        others = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        with self._lock, self._writing(f"The {rows[0][0]} {rows[0][1]}{others}"):
            self._db.execute("BEGIN IMMEDIATE")
            with self._db:
                self._db.executemany("INSERT OR REPLACE INTO wishes (kind, key, value) VALUES (?, ?, ?)", written)

    def get(self, kind: Kind, key: str) -> JsonObject | None:
        with self._lock:
            row = self._db.execute("SELECT value FROM wishes WHERE kind=? AND key=?", (kind, key)).fetchone()
        return json.loads(row[0]) if row else None

    def delete(self, kind: Kind, key: str, *others: Kind) -> bool:
        with self._lock, self._writing(f"The end of {kind} {key}"):
            self._db.execute("BEGIN IMMEDIATE")
            with self._db:
                deleted = self._db.execute("DELETE FROM wishes WHERE kind=? AND key=?", (kind, key)).rowcount
                self._db.executemany("DELETE FROM wishes WHERE kind=? AND key=?", ((other, key) for other in others))
            return deleted > 0

    def all(self, kind: Kind) -> JsonObject:
        with self._lock:
            rows = self._db.execute("SELECT key, value FROM wishes WHERE kind=? ORDER BY rowid", (kind,)).fetchall()
        values = {}
        for key, text in rows:
            try:
                values[key] = json.loads(text)
            except ValueError:
                log.error("the %s %s in the store is damaged", kind, key)
                values[key] = text
        return values

    def number(self, of: str) -> int:
        with self._lock:
            return self._number(of)

    def _number(self, of: str) -> int:
        row = self._db.execute("SELECT value FROM wishes WHERE kind='number' AND key=?", (of,)).fetchone()
        return int(json.loads(row[0])) if row else 0

    def next_number(self, of: str, at_least: int = 0) -> int:
        with self._lock, self._writing(f"The next {of}"):
            self._db.execute("BEGIN IMMEDIATE")
            with self._db:
                number = max(self._number(of) + 1, at_least)
                self._db.execute(
                    "INSERT OR REPLACE INTO wishes (kind, key, value) VALUES ('number', ?, ?)", (of, json.dumps(number))
                )
        return number

    def add_event(self, event: Event) -> None:
        self.add_events([event])

    def add_events(self, events: Sequence[Event]) -> None:
        try:
            with self._lock:
                self._past.execute("BEGIN IMMEDIATE")
                with self._past:
                    self._add_events(events)
        except sqlite3.Error as error:
            if not self._events_are_lost:
                log.error("events cannot be written and are left out until they can: %s", error)
            self._events_are_lost = True
        else:
            self._events_are_lost = False

    def _add_events(self, events: Sequence[Event]) -> None:
        self._past.executemany(
            "INSERT INTO events (ts, level, uid, text) VALUES (?, ?, ?, ?)",
            [(event.ts, event.level, event.uid, event.text) for event in events],
        )
        self._past.executemany(
            "DELETE FROM events WHERE uid=? AND id NOT IN (SELECT id FROM events WHERE uid=? ORDER BY id DESC LIMIT ?)",
            [(uid, uid, EVENTS_KEPT) for uid in {event.uid for event in events}],
        )
        self._past.execute("DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?", (ALL_EVENTS_KEPT,))

    def events(self, uid: str) -> list[Event]:
        rows = self._read_events("SELECT ts, level, uid, text FROM events WHERE uid=? ORDER BY id", (uid,))
        return [Event(ts=ts, level=level, uid=uid, text=text) for ts, level, uid, text in rows]

    def recent_events(self, query: EventQuery) -> list[Event]:
        limits: list[tuple[str, Sequence[str | int]]] = [(f"level IN ({_marks(query.levels)})", query.levels)]
        if query.before is not None:
            limits.append(("id < ?", (query.before,)))
        if query.uids is not None:
            limits.append((f"uid IN ({_marks(query.uids)})", query.uids))
        where = " AND ".join(limit for limit, _ in limits)
        values = [value for _, values in limits for value in values]
        rows = self._read_events(
            f"SELECT id, ts, level, uid, text FROM events WHERE {where} ORDER BY id DESC LIMIT ?",
            (*values, query.limit),
        )
        return [Event(id=id, ts=ts, level=level, uid=uid, text=text) for id, ts, level, uid, text in rows]

    def _read_events(self, question: str, values: Sequence[str | int]) -> list[Any]:
        try:
            with self._lock:
                return self._past.execute(question, values).fetchall()
        except sqlite3.Error as error:
            raise errors.Unavailable(f"The events cannot be read ({error}); the next start puts them aside.") from None

    def close(self) -> None:
        self._db.close()
        self._past.close()


def _marks(values: Sequence[object]) -> str:
    """One for each value, as SQLite wants them."""
    return ", ".join("?" * len(values))


def events_beside(path: Path) -> Path:
    return path.with_name("events.db")


def _connected(path: Path | None) -> sqlite3.Connection:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Made before SQLite opens it, so that the files it puts beside it are for the owner only as well.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    return with_text(
        sqlite3.connect(str(path or ":memory:"), check_same_thread=False, isolation_level=None, timeout=10)
    )


def with_text(db: sqlite3.Connection) -> sqlite3.Connection:
    """Reads a row also when its text is damaged; validation finds that later."""
    db.text_factory = lambda raw: raw.decode(errors="replace")
    return db


def code_of(error: Exception) -> int | None:
    """SQLite's code for an error; for one of the system the code that SQLite would have given it."""
    if isinstance(error, OSError):
        return sqlite3.SQLITE_FULL if error.errno in _NO_SPACE else None
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
