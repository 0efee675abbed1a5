from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import errors
from cluster.control.sqlite_store import EVENTS_KEPT, SqliteStore
from cluster.launch import Wanted
from cluster.status import Event, EventQuery
from tests.full_disk import SmallDisk, small_disk, unwritable
from tests.make import make_wanted


def event(text: str, uid: str = "m") -> Event:
    return Event(ts=1.0, level="INFO", uid=uid, text=text)


def test_what_was_put_is_found() -> None:
    store = SqliteStore()
    store.put("wish", "m", {"replica": 2})
    assert store.get("wish", "m") == {"replica": 2}
    assert store.get("wish", "other") is None
    assert store.get("key", "m") is None


def test_the_last_put_wins() -> None:
    store = SqliteStore()
    store.put("wish", "m", {"replica": 1})
    store.put("wish", "m", {"replica": 2})
    assert store.all("wish") == {"m": {"replica": 2}}


def test_delete_says_whether_there_was_something() -> None:
    store = SqliteStore()
    store.put("wish", "m", {})
    assert store.delete("wish", "m")
    assert not store.delete("wish", "m")
    assert store.all("wish") == {}


def test_a_wish_is_read_as_it_was_written() -> None:
    store, wanted = SqliteStore(), make_wanted("m", replica=2, options={"text": "ü 漢字 \u2028 \x00"})
    store.put("wish", "m", wanted.model_dump(mode="json"))
    assert Wanted.model_validate(store.get("wish", "m")) == wanted


def test_everything_survives_being_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "home" / "store.db"
    store = SqliteStore(path)
    store.put("wish", "m", {"replica": 2})
    store.next_number("epoch")
    store.add_event(event("Launch"))
    store.close()
    again = SqliteStore(path)
    assert again.all("wish") == {"m": {"replica": 2}}
    assert again.next_number("epoch") == 2
    assert [found.text for found in again.events("m")] == ["Launch"]


def test_what_it_writes_is_for_its_owner_only(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "home" / "store.db")
    store.put("key", "k", {})
    for path in (tmp_path / "home", *(tmp_path / "home").iterdir()):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_numbers_grow_each_for_itself() -> None:
    store = SqliteStore()
    assert [store.next_number("epoch") for _ in range(3)] == [1, 2, 3]
    assert store.next_number("generation") == 1


def test_two_writers_never_get_the_same_number(tmp_path: Path) -> None:
    """A supervisor that has been replaced may go on for a moment."""
    stores = [SqliteStore(tmp_path / "store.db") for _ in range(2)]
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda s=store: found.extend(s.next_number("epoch") for _ in range(20)))
        for store in stores
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(1, 41))


def test_one_writer_is_used_from_many_threads() -> None:
    store = SqliteStore()
    threads = [
        threading.Thread(target=lambda t=t: [store.put("wish", f"{t}-{n}", {"n": n}) for n in range(50)])  # type: ignore[func-returns-value]
        for t in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.all("wish")) == 200


def test_the_newest_events_are_kept_in_order() -> None:
    store = SqliteStore()
    for number in range(EVENTS_KEPT + 20):
        store.add_event(event(f"event {number}"))
    texts = [found.text for found in store.events("m")]
    assert texts == [f"event {number}" for number in range(20, EVENTS_KEPT + 20)]


def test_events_of_one_model_do_not_push_out_those_of_another() -> None:
    store = SqliteStore()
    store.add_event(event("kept", uid="other"))
    for number in range(EVENTS_KEPT + 1):
        store.add_event(event(f"event {number}"))
    assert [found.text for found in store.events("other")] == ["kept"]


def test_recent_events_are_those_of_all_the_newest_first_and_page_by_page() -> None:
    store = SqliteStore()
    for number in range(4):
        uids = {"m": "m", "other": "other", "itself": ""}
        store.add_events([event(f"{name} {number}", uid) for name, uid in uids.items()])

    def texts(**fields: Any) -> list[str]:
        return [found.text for found in store.recent_events(EventQuery(**fields))]

    assert texts(limit=4) == ["itself 3", "other 3", "m 3", "itself 2"]
    last = store.recent_events(EventQuery(limit=4))[-1]
    assert texts(limit=2, before=last.id) == ["other 2", "m 2"]
    assert texts(uids=("other", "")) == [f"{name} {number}" for number in (3, 2, 1, 0) for name in ("itself", "other")]
    assert texts(uids=()) == []
    store.add_event(event("bad").model_copy(update={"level": "ERROR"}))
    assert texts(levels=("WARNING", "ERROR")) == ["bad"]


def test_a_query_takes_what_the_store_finds_for_it() -> None:
    store = SqliteStore()
    store.add_events([event("a"), event("b", uid="n"), event("c", uid="").model_copy(update={"level": "WARNING"})])
    every = store.recent_events(EventQuery())
    for query in (
        EventQuery(before=3),
        EventQuery(uids=("n", "")),
        EventQuery(levels=("WARNING",)),
        EventQuery(uids=("m",), levels=("ERROR",)),
    ):
        assert store.recent_events(query) == [each for each in every if query.takes(each)]


def test_events_outlive_the_wish() -> None:
    store = SqliteStore()
    store.put("wish", "m", {})
    store.add_event(event("Launch"))
    store.delete("wish", "m")
    assert store.events("m") == [event("Launch")]


WRITER = """
import sys
from cluster.control.sqlite_store import SqliteStore
store = SqliteStore(sys.argv[1])
for number in range(1_000_000):
    store.put("wish", f"m{number}", {"number": number})
    store.next_number("generation")
    print(number, flush=True)
"""


@pytest.mark.parametrize("written", [1, 7, 40])
def test_what_a_killed_process_had_written_is_there(tmp_path: Path, written: int) -> None:
    path = tmp_path / "store.db"
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(written):
            last = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        last = int((writer.stdout.read().split() or [last])[-1])  # type: ignore[list-item]
    store = SqliteStore(path)
    wishes = store.all("wish")
    assert [wishes[f"m{number}"] for number in range(last + 1)] == [{"number": n} for n in range(last + 1)]
    assert len(wishes) <= last + 2
    assert store.next_number("generation") > last + 1
    store.put("wish", "after", {})


# ------------------------------------------------------------------------------------------------- a full disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "small", "1m") as found:
        yield found


def test_what_cannot_be_written_is_refused_and_changes_nothing() -> None:
    store = SqliteStore()
    store.put("wish", "m", {"replica": 1})
    with unwritable(store):
        for write in (
            lambda: store.put("wish", "m", {"replica": 2}),
            lambda: store.delete("wish", "m"),
            lambda: store.next_number("generation"),
        ):
            with pytest.raises(errors.OutOfSpace, match=r"make room there and try again\.$"):
                write()
        store.add_event(event("left out"))
        assert store.all("wish") == {"m": {"replica": 1}}
    store.put("wish", "m", {"replica": 2})
    store.add_event(event("kept"))
    assert store.get("wish", "m") == {"replica": 2}
    assert store.next_number("generation") == 1
    assert [found.text for found in store.events("m")] == ["kept"]


def test_on_a_full_disk_it_opens_reads_and_refuses(disk: SmallDisk) -> None:
    """The files are as a killed process leaves them, which the next process finds."""
    path = disk.root / "store.db"
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None and writer.stdout.readline()
        os.kill(writer.pid, signal.SIGKILL)
    disk.fill()
    store = SqliteStore(path)
    assert store.get("wish", "m0") == {"number": 0}
    # What the killed process had mapped may be given back only now.
    free = store.free_bytes()
    assert free is not None and free < 2**16
    with pytest.raises(errors.OutOfSpace, match=r"^The wish big cannot be written to .* 0 MB are free\)"):
        store.put("wish", "big", {"text": "x" * 100_000})
    for number in range(1000):
        store.add_event(event(f"event {number} {'x' * 1000}"))
    store.close()
    disk.empty()
    again = SqliteStore(path)
    assert again.get("wish", "m0") == {"number": 0} and again.get("wish", "big") is None
    again.put("wish", "big", {"text": "x" * 100_000})


def test_a_new_store_on_a_full_disk_says_so(disk: SmallDisk) -> None:
    disk.fill()
    with pytest.raises(errors.OutOfSpace, match="The store cannot be written to"):
        SqliteStore(disk.root / "store.db")
    disk.empty()
    SqliteStore(disk.root / "store.db").put("wish", "m", {})


def test_the_file_alone_is_all_of_it_at_any_moment(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    store.put("wish", "m", {"replica": 2})
    (tmp_path / "copy.db").write_bytes((tmp_path / "store.db").read_bytes())
    assert SqliteStore(tmp_path / "copy.db").all("wish") == {"m": {"replica": 2}}


OLD_SCHEMA = """
PRAGMA journal_mode=WAL;
CREATE TABLE wishes (kind TEXT, key TEXT, value TEXT NOT NULL, PRIMARY KEY (kind, key));
CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, ts REAL, level TEXT, uid TEXT, text TEXT);
CREATE INDEX events_of ON events (uid, id);
INSERT INTO wishes VALUES ('wish', 'm', '{"replica": 2}'), ('number', 'epoch', '7');
INSERT INTO events (ts, level, uid, text) VALUES (1.0, 'INFO', 'm', 'Launch');
"""


def test_a_store_of_an_older_version_becomes_one_of_this(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with sqlite3.connect(path) as old:
        old.executescript(OLD_SCHEMA)
    old.close()
    for _ in range(2):
        store = SqliteStore(path)
        assert (store.all("wish"), store.number("epoch")) == ({"m": {"replica": 2}}, 7)
        assert store.events("m") == [event("Launch")]
        store.close()
    assert not path.with_name("store.db-wal").exists()


def test_events_that_cannot_be_had_are_no_reason_not_to_open(tmp_path: Path) -> None:
    (tmp_path / "events.db").write_bytes(b"no database" * 1000)
    store = SqliteStore(tmp_path / "store.db")
    store.put("wish", "m", {"replica": 2})
    store.add_event(event("in memory"))
    assert [found.text for found in store.events("m")] == ["in memory"]


def test_a_number_can_be_asked_to_be_above_another_one() -> None:
    store = SqliteStore()
    assert store.next_number("epoch", 100) == 100
    assert store.next_number("epoch", 50) == 101
    assert store.number("epoch") == 101
