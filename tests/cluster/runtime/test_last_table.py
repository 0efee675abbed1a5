from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.routes import ModelRoutes, Route, Snapshot, WorkerAddress
from cluster.runtime.last_table import LastTable
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


def test_what_one_writes_another_reads_with_the_workers_that_are_still_there(tmp_path: Path) -> None:
    table_at(tmp_path).write(TABLE)
    snapshot = table_at(tmp_path).read()
    assert snapshot is not None
    assert (snapshot.version, snapshot.epoch, snapshot.poison) == (7, 3, (("m", "f"),))
    assert snapshot.models["m"].workers == (Route("here", None, ADDRESS),)
    assert snapshot.handles == {"here": "actor of here"}


def test_it_is_for_its_owner_only_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    for _ in range(2):
        table_at(tmp_path).write(TABLE)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_without_a_file_or_with_one_that_is_none_there_is_no_table(tmp_path: Path) -> None:
    assert table_at(tmp_path).read() is None
    for wrong in (b"", b"no pickle", b"\x80\x05K\x01."):
        (tmp_path / "routes").write_bytes(wrong)
        assert table_at(tmp_path).read() is None


def test_a_folder_that_is_not_there_is_no_reason_to_fail(tmp_path: Path) -> None:
    table_at(tmp_path / "missing").write(TABLE)
    assert table_at(tmp_path / "missing").read() is None
