"""The store's file as a whole: checked before it is used, salvaged when it is damaged, backed up and restored."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from cluster import errors
from cluster.control.sqlite_store import SCHEMA, SqliteStore, code_of, events_beside, with_text
from cluster.control.store import ITSELF
from cluster.status import Event

log = logging.getLogger("cluster.control.store")

#: How long a writer may keep a reader out.
BUSY_S = 0.5
#: What SQLite may keep beside a file.
_SIDES = ("-journal", "-wal", "-shm")
#: SQLite's codes for a file that is no sound database, or another one than ours.
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_FORMAT}
_PAGE_BYTES = 4096

Rows = dict[tuple[str, str], Any]


def check_store(path: Path) -> str | None:
    """Makes sure that a store can be opened; says in a sentence what had to be done for it.

    A file that is damaged is kept under another name, and what can be read of it is written into a new one. To be
    called while nobody has the store open.
    """
    events = events_beside(path)
    if events.exists() and events.stat().st_size and _what_is_wrong(events, "events (ts, level, uid, text)"):
        log.warning("the events were damaged and are kept as %s", _set_aside(events, "damaged"))
        events.unlink()
    if not path.exists() or (wrong := _what_is_wrong(path)) is None:
        return None
    rows = _salvaged(path)
    with _explained(path):
        _write(draft := _draft_of(path), rows)
        aside = _set_aside(path, "damaged")
        os.replace(draft, path)
    saved = f"{_counted(rows)} could be read and are kept" if rows else "nothing in it could be read"
    sentence = f"{path} was damaged ({wrong}): it is put aside as {aside.name}, and {saved}."
    with closing(SqliteStore(path)) as store:
        store.add_event(Event(ts=time.time(), level="ERROR", uid=ITSELF, text=sentence))
    return sentence


def settle(path: Path) -> None:
    """Leaves the one file with all in it, whatever those who had it open were doing when they were ended."""
    if path.exists():
        with suppress(OSError, sqlite3.Error), closing(_opened(path)) as db:
            # The one deletes a write-ahead log, the other the journal that a store keeps.
            db.execute("PRAGMA journal_mode=PERSIST")
            db.execute("PRAGMA journal_mode=DELETE")


def backup(path: Path, target: Path, *, force: bool = False) -> str:
    """Copies a store, whether or not a cluster runs on it; says what is in the copy."""
    if not path.exists():
        raise errors.BadRequest(f"There is nothing to back up: no {path} is there.")
    if target.exists() and not force:
        raise errors.BadRequest(f"{target} is there already; choose another name, or replace it with --force.")
    with _explained(target):
        draft = _draft_of(target)
        try:
            _copy(path, draft)
            rows = _checked_rows(draft, path)
            os.replace(draft, target)
        finally:
            draft.unlink(missing_ok=True)
    return f"{_counted(rows)} are in {target}."


def restore(path: Path, source: Path) -> str:
    """Puts a backup in the place of a store that no process has open; what was there is kept."""
    if not source.is_file():
        raise errors.BadRequest(f"There is no backup {source}.")
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = _draft_of(path)
        try:
            _copy(source, draft)
            rows = _checked_rows(draft, source)
            if path.exists():
                # Numbers given out since the backup are not given out again: workers may still carry them.
                old = {row: value for row, value in _salvaged(path).items() if row[0] == "number"}
                _write(draft, _with_numbers(rows, old))
            aside = _set_aside(path, "before-restore") if path.exists() else None
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    kept = f"; what was there is kept as {aside.name}" if aside else ""
    return f"{_counted(rows)} are back from {source}{kept}."


# ------------------------------------------------------------------------------------------------------ reading


def _opened(path: Path, mode: str = "rw") -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return with_text(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_S))


def _what_is_wrong(path: Path, table: str = "wishes (kind, key, value)") -> str | None:
    """Why a file is no store, in SQLite's words; None as well where it can only not be read now."""
    if not path.stat().st_size:
        return "it is empty"
    name, columns = table.split(" ", 1)
    try:
        with closing(_opened(path)) as db:
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                return " ".join(str(verdict).split())
            db.execute(f"SELECT {columns.strip('()')} FROM {name} LIMIT 1")
    except sqlite3.DatabaseError as error:
        return str(error) if code_of(error) in _DAMAGED else None
    return None


def _salvaged(path: Path) -> Rows:
    """Every row that can still be reached, from the first one on and from the last one back."""
    rows = _reached(path)
    if not rows and path.stat().st_size > _PAGE_BYTES:
        with tempfile.TemporaryDirectory() as folder, suppress(OSError, sqlite3.Error):
            rows = _reached(_with_new_first_page(path, Path(folder)))
    generations = [row.get("generation", 0) for (kind, _), row in rows.items() if kind in ("wish", "ready")]
    highest = max((number for number in generations if isinstance(number, int)), default=0)
    return _with_numbers(rows, {("number", "generation"): highest}) if rows else rows


def _reached(path: Path) -> Rows:
    rows: Rows = {}
    for order in ("ASC", "DESC"):
        try:
            with closing(_opened(path)) as db:
                # Without it SQLite opens no file that is shorter than it should be.
                db.execute("PRAGMA writable_schema=ON")
                for kind, key, value in db.execute(f"SELECT kind, key, value FROM wishes ORDER BY rowid {order}"):
                    with suppress(ValueError, TypeError):
                        rows.setdefault((kind, key), json.loads(value))
        except sqlite3.Error as error:
            log.info("%s is read no further: %s", path, error)
    return rows


def _with_new_first_page(path: Path, folder: Path) -> Path:
    """A copy whose first page, which says where the table is, comes from a new store: it has been the same in all."""
    new, copy = folder / "new.db", folder / "copy.db"
    _write(new, {})
    page = bytearray(new.read_bytes()[:_PAGE_BYTES])
    # SQLite is to ask the file how long it is, not this page.
    page[92:96] = bytes(4)
    copy.write_bytes(bytes(page) + path.read_bytes()[_PAGE_BYTES:])
    return copy


def _checked_rows(path: Path, origin: Path) -> Rows:
    wrong = _what_is_wrong(path)
    if wrong is not None:
        raise errors.BadRequest(f"{origin} is not a sound store ({wrong}); nothing was changed.")
    return _reached(path)


def _counted(rows: Iterable[tuple[str, str]]) -> str:
    """`2 models, 1 key and 0 registrations`."""
    kinds = Counter(kind for kind, _ in rows)
    words = (("wish", "model"), ("key", "key"), ("entry", "registration"))
    models, keys, registrations = (f"{kinds[kind]} {word}{'' if kinds[kind] == 1 else 's'}" for kind, word in words)
    return f"{models}, {keys} and {registrations}"


# ------------------------------------------------------------------------------------------------------ writing


def _with_numbers(rows: Rows, others: Mapping[tuple[str, str], Any]) -> Rows:
    """The rows, with each number at least as high as the other one."""
    return {**rows, **{row: max(rows.get(row, 0), number) for row, number in others.items()}}


def _write(path: Path, rows: Rows) -> None:
    """Into a store that nobody else has open, all or nothing."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous=FULL")
        db.execute(SCHEMA)
        db.execute("BEGIN IMMEDIATE")
        with db:
            db.executemany(
                "INSERT OR REPLACE INTO wishes (kind, key, value) VALUES (?, ?, ?)",
                [(kind, key, json.dumps(value)) for (kind, key), value in rows.items()],
            )


def _copy(source: Path, target: Path) -> None:
    """As SQLite reads it: with what is still in a log beside it, and consistent while somebody writes."""
    try:
        with closing(_opened(source, "ro")) as origin, closing(sqlite3.connect(target, isolation_level=None)) as copy:
            origin.backup(copy, sleep=0.02)
            # One file: an older version's store has half of itself in a log.
            copy.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.DatabaseError as error:
        if code_of(error) in _DAMAGED:
            raise errors.BadRequest(f"{source} is not a sound store ({error}); nothing was changed.") from None
        raise


def _draft_of(path: Path) -> Path:
    """An empty file beside it, for its owner only, which may take its place."""
    draft = path.with_name(f".{path.name}.draft-{os.getpid()}")
    for file in (draft, *(draft.with_name(draft.name + side) for side in _SIDES)):
        file.unlink(missing_ok=True)
    os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    return draft


def _set_aside(path: Path, why: str) -> Path:
    """Another name for a store, which keeps its own until something else takes it; what is beside it goes along."""
    name = f"{path.name}.{why}-{time.strftime('%Y%m%d-%H%M%S')}"
    taken = {file.name for file in path.parent.iterdir()}
    names = (name if number == 0 else f"{name}-{number}" for number in range(len(taken) + 1))
    aside = path.with_name(next(name for name in names if name not in taken))
    try:
        os.link(path, aside)
    except OSError:
        shutil.copy2(path, aside)
    for side in _SIDES:
        with suppress(FileNotFoundError):
            # Left where it is, SQLite would apply it to the new file.
            os.replace(path.with_name(path.name + side), aside.with_name(aside.name + side))
    return aside


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns errors of writing into ones that say what to do."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        kind = errors.OutOfSpace if code_of(error) == sqlite3.SQLITE_FULL else errors.BadRequest
        raise kind(f"{path} cannot be written ({error}); nothing was changed.") from error
