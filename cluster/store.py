"""What must survive everything: wishes, registrations, keys, the epoch, and the events people read afterwards.

Nothing about running processes is in here: that is observed.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
from pathlib import Path
from typing import Any

from cluster.spec import Event

log = logging.getLogger("cluster.store")

#: Events kept per model.
EVENTS_KEPT = 100

_SCHEMA = """
CREATE TABLE IF NOT EXISTS wishes (kind TEXT, key TEXT, value TEXT NOT NULL, PRIMARY KEY (kind, key));
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, ts REAL, level TEXT, uid TEXT, text TEXT);
CREATE INDEX IF NOT EXISTS events_of ON events (uid, id);
"""


class Store:
    """SQLite; `:memory:` in tests. Each write is one transaction, on disk when the call returns."""

    def __init__(self, path: Path | str = ":memory:") -> None:
        if path != ":memory:":
            Path(path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Made before SQLite opens it, so that the files it puts beside it are for the owner only as well.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._lock = threading.Lock()
        self._db = sqlite3.connect(str(path), check_same_thread=False, isolation_level=None, timeout=10)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)

    def put(self, kind: str, key: str, value: dict[str, Any]) -> None:
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO wishes VALUES (?, ?, ?)", (kind, key, json.dumps(value)))

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        with self._lock:
            row = self._db.execute("SELECT value FROM wishes WHERE kind=? AND key=?", (kind, key)).fetchone()
        return json.loads(row[0]) if row else None

    def delete(self, kind: str, key: str) -> bool:
        with self._lock:
            return self._db.execute("DELETE FROM wishes WHERE kind=? AND key=?", (kind, key)).rowcount > 0

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        with self._lock:
            rows = self._db.execute("SELECT key, value FROM wishes WHERE kind=? ORDER BY rowid", (kind,)).fetchall()
        found = {}
        for key, value in rows:
            try:
                found[key] = json.loads(value)
            except ValueError:
                log.error("the %s %s in the store is damaged and is left out", kind, key)
        return found

    def next_number(self, of: str) -> int:
        """A number above every one before it; survives restarts, so an older one can always be told."""
        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            row = self._db.execute("SELECT value FROM wishes WHERE kind='number' AND key=?", (of,)).fetchone()
            number = (json.loads(row[0]) if row else 0) + 1
            self._db.execute("INSERT OR REPLACE INTO wishes VALUES ('number', ?, ?)", (of, json.dumps(number)))
        return int(number)

    def add_event(self, event: Event) -> None:
        with self._lock:
            self._db.execute(
                "INSERT INTO events (ts, level, uid, text) VALUES (?, ?, ?, ?)",
                (event.ts, event.level, event.uid, event.text),
            )
            self._db.execute(
                "DELETE FROM events WHERE uid=? AND id NOT IN "
                "(SELECT id FROM events WHERE uid=? ORDER BY id DESC LIMIT ?)",
                (event.uid, event.uid, EVENTS_KEPT),
            )

    def events(self, uid: str) -> list[Event]:
        with self._lock:
            rows = self._db.execute(
                "SELECT ts, level, uid, text FROM events WHERE uid=? ORDER BY id", (uid,)
            ).fetchall()
        return [Event(ts=ts, level=level, uid=uid, text=text) for ts, level, uid, text in rows]

    def close(self) -> None:
        self._db.close()
