from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster import errors
from cluster.control.sqlite_store import SqliteStore
from cluster.control.store import ITSELF
from cluster.control.store_file import backup, check_store, restore, settle
from cluster.status import Event
from tests.full_disk import SmallDisk, small_disk

MODELS = 300


@pytest.fixture(scope="module")
def full_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with wishes of realistic size, three keys and a registration. Every row is synced to the disk, so it is
    written once; each test has a copy."""
    path = tmp_path_factory.mktemp("full") / "home" / "store.db"
    store = SqliteStore(path)
    for number in range(MODELS):
        store.put("wish", f"m{number}", {"uid": f"m{number}", "generation": number + 1, "text": "x" * 900})
    for number in range(3):
        store.put("key", f"k{number}", {"id": f"k{number}"})
    store.put("entry", "embedding/mine", {"name": "mine"})
    store.next_number("generation", MODELS)
    store.next_number("epoch", 5)
    store.close()
    return path.parent


@pytest.fixture
def path(full_home: Path, tmp_path: Path) -> Path:
    return shutil.copytree(full_home, tmp_path / "home") / "store.db"


def everything(path: Path) -> dict[str, dict[str, object]]:
    store = SqliteStore(path)
    try:
        return {kind: store.all(kind) for kind in ("wish", "key", "entry", "number")}
    finally:
        store.close()


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


# ------------------------------------------------------------------------------------------------- what is sound


def test_a_sound_store_is_left_alone(path: Path) -> None:
    before = path.read_bytes()
    assert check_store(path) is None
    assert path.read_bytes() == before


def test_no_store_is_no_damage(tmp_path: Path) -> None:
    assert check_store(tmp_path / "home" / "store.db") is None
    assert not (tmp_path / "home").exists()


def test_one_that_is_being_written_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        started = time.monotonic()
        assert check_store(path) is None
        other.execute("ROLLBACK")
    other.close()
    assert time.monotonic() - started < 2


def test_rows_that_another_version_wrote_are_no_damage(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE wishes ADD COLUMN colour TEXT")
        db.execute("CREATE TABLE more (text TEXT)")
        db.execute("PRAGMA user_version=9")
        db.execute("INSERT INTO wishes (kind, key, value) VALUES ('wish', 'newer', '{\"colour\": \"red\"}')")
    db.close()
    assert check_store(path) is None
    store = SqliteStore(path)
    assert store.get("wish", "newer") == {"colour": "red"}
    store.put("wish", "m", {})


# ---------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("damage", "models", "reason"),
    [
        pytest.param(lambda path: os.truncate(path, 0), 0, "it is empty", id="empty"),
        pytest.param(lambda path: path.write_bytes(os.urandom(100_000)), 0, "file is not a database", id="garbage"),
        pytest.param(lambda path: overwrite(path, 0, b"x" * 100), MODELS, "file is not a database", id="header"),
        pytest.param(lambda path: overwrite(path, 0, os.urandom(4096)), MODELS, "not a database", id="first page"),
        pytest.param(lambda path: os.truncate(path, path.stat().st_size // 2), 50, "malformed", id="half of it"),
        pytest.param(lambda path: os.truncate(path, 5000), 0, "malformed", id="truncated to nearly nothing"),
        pytest.param(lambda path: overwrite(path, 40 * 4096, b"\0" * 8192), MODELS - 30, "", id="pages of zeros"),
        pytest.param(
            lambda path: overwrite(path, path.stat().st_size - 4096, os.urandom(4096)), MODELS - 30, "", id="last page"
        ),
        pytest.param(lambda path: drop_tables(path), 0, "no such table: wishes", id="no tables"),
    ],
)
def test_a_damaged_store_is_put_aside_and_what_can_be_read_is_kept(
    path: Path, damage: Callable[[Path], object], models: int, reason: str
) -> None:
    before = everything(path)
    damage(path)
    damaged = path.read_bytes()
    started = time.monotonic()
    sentence = check_store(path)
    took = time.monotonic() - started
    assert sentence is not None and reason in sentence and sentence.startswith(f"{path} was damaged (")
    (aside,) = path.parent.glob("store.db.damaged-*[0-9]")
    assert aside.name in sentence and aside.read_bytes() == damaged
    after = everything(path)
    print(f"\n{reason}: {len(after['wish'])} of {MODELS} models saved in {took * 1000:.0f} ms")
    assert len(after["wish"]) >= models
    assert f"{len(after['wish'])} models" in sentence or not after["wish"]
    assert all(before[kind][key] == value for kind in ("wish", "key", "entry") for key, value in after[kind].items())
    assert after["number"].get("generation", 0) >= max((w["generation"] for w in after["wish"].values()), default=0)  # type: ignore[operator]
    assert check_store(path) is None
    assert SqliteStore(path).events(ITSELF)[-1].text == sentence
    assert not stat.S_IMODE(path.stat().st_mode) & 0o077
    assert took < 2


def drop_tables(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE wishes")
    db.close()


def test_what_is_beside_a_damaged_store_is_not_applied_to_the_new_one(path: Path) -> None:
    for side in ("-wal", "-journal"):
        path.with_name(path.name + side).write_bytes(os.urandom(9000))
    overwrite(path, 0, b"x" * 100)
    assert check_store(path)
    assert len(everything(path)["wish"]) == MODELS
    assert check_store(path) is None


def test_a_row_that_is_no_text_does_not_hide_the_others(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("UPDATE wishes SET value = CAST(x'7bff227d' AS TEXT) WHERE key = 'm7'")
    db.close()
    assert check_store(path) is None
    wishes = SqliteStore(path).all("wish")
    assert len(wishes) == MODELS and [key for key, wish in wishes.items() if not isinstance(wish, dict)] == ["m7"]


def test_damaged_twice_in_a_second_both_are_kept(path: Path) -> None:
    for _ in range(2):
        overwrite(path, 0, b"x" * 100)
        assert check_store(path)
    assert len([file for file in path.parent.glob("store.db.damaged-*") if "-journal" not in file.name]) == 2
    assert len(everything(path)["wish"]) == MODELS


def test_damaged_events_go_and_the_wishes_stay(path: Path) -> None:
    overwrite(path.with_name("events.db"), 0, b"x" * 100)
    before = path.read_bytes()
    assert check_store(path) is None
    assert path.read_bytes() == before
    store = SqliteStore(path)
    store.add_event(Event(ts=1.0, level="INFO", uid="m", text="on disk"))
    store.close()
    assert [event.text for event in SqliteStore(path).events("m")] == ["on disk"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "small", "2m") as found:
        yield found


def test_without_room_to_salvage_nothing_is_touched(disk: SmallDisk) -> None:
    path = disk.root / "store.db"
    store = SqliteStore(path)
    store.put("wish", "m", {"text": "x" * 200_000})
    store.close()
    overwrite(path, 0, b"x" * 100)
    damaged = path.read_bytes()
    disk.fill()
    with pytest.raises(errors.OutOfSpace, match="nothing was changed"):
        check_store(path)
    assert path.read_bytes() == damaged
    disk.empty()
    assert check_store(path)
    assert set(everything(path)["wish"]) == {"m"}


# ------------------------------------------------------------------------------------------ backup and restore


def test_a_backup_brings_back_wishes_keys_and_registrations(path: Path, tmp_path: Path) -> None:
    before = everything(path)
    assert backup(path, tmp_path / "saved") == f"300 models, 3 keys and 1 registration are in {tmp_path / 'saved'}."
    assert stat.S_IMODE((tmp_path / "saved").stat().st_mode) == 0o600
    store = SqliteStore(path)
    for uid in before["wish"]:
        store.delete("wish", uid)
    store.put("key", "later", {})
    assert store.next_number("generation") == MODELS + 1
    store.close()
    sentence = restore(path, tmp_path / "saved")
    (aside,) = path.parent.glob("store.db.before-restore-*[0-9]")
    assert sentence == (
        f"300 models, 3 keys and 1 registration are back from {tmp_path / 'saved'}; "
        f"what was there is kept as {aside.name}."
    )
    after = everything(path)
    assert {kind: after[kind] for kind in ("wish", "key", "entry")} == {
        kind: before[kind] for kind in ("wish", "key", "entry")
    }
    # Workers of the later generation may still be there.
    assert after["number"]["generation"] == MODELS + 1
    assert "later" in everything(aside)["key"]


def test_a_backup_is_restored_into_an_empty_home(path: Path, tmp_path: Path) -> None:
    backup(path, tmp_path / "saved")
    other = tmp_path / "other" / "store.db"
    assert restore(other, tmp_path / "saved").endswith(f"are back from {tmp_path / 'saved'}.")
    assert everything(other) == everything(path)
    assert {stat.S_IMODE(file.stat().st_mode) & 0o077 for file in (other.parent, *other.parent.iterdir())} == {0}


WRITER = """
import sys, time
from cluster.control.sqlite_store import SqliteStore
store = SqliteStore(sys.argv[1])
for number in range(1_000_000):
    store.put("wish", "first", {"number": number})
    store.put("wish", "second", {"number": number})
    print(number, flush=True)
    time.sleep(0.005)
"""


def test_a_backup_is_one_moment_while_somebody_writes(path: Path, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None and writer.stdout.readline()
        for number in range(5):
            backup(path, tmp_path / f"{number}")
            wishes = everything(tmp_path / f"{number}")["wish"]
            assert len(wishes) == MODELS + 2
            assert wishes["first"]["number"] - wishes["second"]["number"] in (0, 1)
        writer.kill()


def test_a_backup_replaces_nothing_unless_it_is_told_to(path: Path, tmp_path: Path) -> None:
    (tmp_path / "saved").write_text("precious")
    with pytest.raises(errors.BadRequest, match="--force"):
        backup(path, tmp_path / "saved")
    assert (tmp_path / "saved").read_text() == "precious"
    backup(path, tmp_path / "saved", force=True)
    assert everything(tmp_path / "saved") == everything(path)


def test_a_backup_of_nothing_and_into_nowhere_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.BadRequest, match="nothing to back up"):
        backup(tmp_path / "nowhere" / "store.db", tmp_path / "saved")
    with pytest.raises(errors.BadRequest, match="cannot be written"):
        backup(path, tmp_path / "nowhere" / "saved")


def test_a_backup_of_an_older_versions_store_has_what_is_in_its_log(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "store.db")
    old.executescript(
        "PRAGMA journal_mode=WAL; CREATE TABLE wishes (kind TEXT, key TEXT, value TEXT, PRIMARY KEY (kind, key));"
        "INSERT INTO wishes VALUES ('wish', 'm', '{}')"
    )
    backup(tmp_path / "store.db", tmp_path / "saved")
    old.close()
    assert [file.name for file in tmp_path.glob("saved*")] == ["saved"]
    assert everything(tmp_path / "saved")["wish"] == {"m": {}}


@pytest.mark.parametrize("content", [b"", b"no database at all" * 1000, None], ids=["empty", "garbage", "truncated"])
def test_a_bad_backup_is_refused_and_changes_nothing(path: Path, tmp_path: Path, content: bytes | None) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(path.read_bytes()[:50_000] if content is None else content)
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    with pytest.raises(errors.BadRequest, match="is not a sound store .* nothing was changed"):
        restore(path, bad)
    with pytest.raises(errors.BadRequest, match="There is no backup"):
        restore(path, tmp_path / "missing")
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


# --------------------------------------------------------------------------------------------------- afterwards


def test_after_a_killed_writer_the_settled_file_alone_is_all_of_it(path: Path, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None and writer.stdout.readline()
        writer.kill()
    settle(path)
    copy = tmp_path / "copy.db"
    copy.write_bytes(path.read_bytes())
    wishes = everything(copy)["wish"]
    assert {"first", "second"} <= set(wishes) and wishes["m7"]["generation"] == 8
    assert not [file for file in path.parent.iterdir() if file.name.startswith("store.db-")]


def test_an_older_versions_store_is_settled_as_well(tmp_path: Path) -> None:
    program = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.executescript("PRAGMA journal_mode=WAL; CREATE TABLE wishes (kind, key, value, PRIMARY KEY (kind, key));"
                 "INSERT INTO wishes VALUES ('wish', 'm', '{}')")
os._exit(0)
"""
    path = tmp_path / "store.db"
    subprocess.run([sys.executable, "-c", program, path], check=True)
    assert path.with_name("store.db-wal").stat().st_size
    settle(path)
    assert json.dumps(everything(path)["wish"]) == '{"m": {}}'
    assert not path.with_name("store.db-wal").exists()


def test_settling_nothing_makes_nothing(tmp_path: Path) -> None:
    settle(tmp_path / "store.db")
    assert not list(tmp_path.iterdir())
