from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.routes import Amendment, ModelRoutes, Route, Snapshot, WorkerAddress, amended
from cluster.runtime.last_table import LEAST_ROOM, LastTable
from cluster.status import ModelState

ADDRESS = WorkerAddress("n0", "/run/w.sock")
ROUTES = ModelRoutes("m", ("infer",), (Route("here", None, ADDRESS), Route("gone")), ModelState.READY)
TABLE = Snapshot(7, {"m": ROUTES}, {"here": object(), "gone": object()}, (), 3, (("m", "f"),))


def actor(name: str) -> Any:
    if name != "here":
        raise ValueError(f"no actor {name}")
    return f"actor of {name}"


def table_at(folder: Path) -> LastTable:
    return LastTable(folder / "routes", actor)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[LastTable]:
    with closing(table_at(tmp_path)) as table:
        yield table


def test_what_one_writes_another_reads_with_the_workers_that_are_still_there(writer: LastTable, tmp_path: Path) -> None:
    writer.write(TABLE)
    snapshot = table_at(tmp_path).read()
    assert snapshot is not None
    assert (snapshot.version, snapshot.epoch, snapshot.poison) == (7, 3, (("m", "f"),))
    assert snapshot.models["m"].workers == (Route("here", None, ADDRESS),)
    assert snapshot.handles == {"here": "actor of here"}


def test_it_is_for_its_owner_only_and_nothing_is_left_beside_it(writer: LastTable, tmp_path: Path) -> None:
    for _ in range(2):
        writer.write(TABLE)
    assert {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {
        "routes": 0o600,
        "routes.lock": 0o600,
    }


def test_without_a_file_or_with_one_that_is_none_there_is_no_table(tmp_path: Path) -> None:
    assert table_at(tmp_path).read() is None
    for wrong in (b"", b"no pickle", b"\x80\x05K\x01."):
        (tmp_path / "routes").write_bytes(wrong)
        assert table_at(tmp_path).read() is None


def test_a_folder_that_is_not_there_is_no_reason_to_fail(tmp_path: Path) -> None:
    table_at(tmp_path / "missing").write(TABLE)
    assert table_at(tmp_path / "missing").read() is None


def routes(uid: str, worker: str) -> ModelRoutes:
    return ModelRoutes(uid, ("infer",), (Route(worker, None, ADDRESS),), ModelState.READY)


def change_of(number: int) -> Amendment:
    uid = f"m{number}"
    return Amendment(7 + number, 8 + number, {uid: routes(uid, "here")}, {"here": object()}, (f"m{number - 1}",))


def test_changes_are_appended_and_read_with_the_table_before_them(writer: LastTable, tmp_path: Path) -> None:
    table = TABLE
    writer.write(table)
    size = (tmp_path / "routes").stat().st_size
    for number in range(5):
        change = change_of(number)
        table = amended(table, change)
        writer.write(table, [change])
        snapshot = table_at(tmp_path).read()
        assert snapshot is not None
        assert (snapshot.version, list(snapshot.models)) == (8 + number, ["m", f"m{number}"])
    assert (tmp_path / "routes").stat().st_size > size


def test_a_change_that_was_cut_off_is_left_out(writer: LastTable, tmp_path: Path) -> None:
    writer.write(TABLE)
    writer.write(amended(TABLE, change_of(0)), [change_of(0)])
    whole = (tmp_path / "routes").read_bytes()
    for length in (len(whole) - 1, len(whole) - 50):
        (tmp_path / "routes").write_bytes(whole[:length])
        snapshot = table_at(tmp_path).read()
        assert snapshot is not None and snapshot.version == 7


def test_changes_that_do_not_go_on_from_the_file_replace_it(writer: LastTable, tmp_path: Path) -> None:
    writer.write(TABLE)
    table = amended(amended(TABLE, change_of(0)), change_of(1))
    writer.write(table, [change_of(1)])
    snapshot = table_at(tmp_path).read()
    assert snapshot is not None and (snapshot.version, list(snapshot.models)) == (9, ["m", "m1"])


def test_the_file_does_not_grow_without_end(writer: LastTable, tmp_path: Path) -> None:
    table = TABLE
    writer.write(table)
    for number in range(1000):
        change = change_of(number)
        table = amended(table, change)
        writer.write(table, [change])
    assert (tmp_path / "routes").stat().st_size < 2.1 * LEAST_ROOM
    snapshot = table_at(tmp_path).read()
    assert snapshot is not None and snapshot.version == 1007


def test_one_writes_as_long_as_it_lives_and_then_another(writer: LastTable, tmp_path: Path) -> None:
    first, second = writer, table_at(tmp_path)
    first.write(TABLE)
    second.write(replace(TABLE, version=8))
    snapshot = table_at(tmp_path).read()
    assert snapshot is not None and snapshot.version == 7
    first.close()
    second.write(replace(TABLE, version=9), [change_of(1)])
    snapshot = table_at(tmp_path).read()
    assert snapshot is not None and snapshot.version == 9
    second.close()
