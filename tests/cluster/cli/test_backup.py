from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from click.testing import Result

from cluster.control.sqlite_store import SqliteStore
from cluster.settings import STORE_NAME
from tests.cluster.client.fake_server import FakeServer
from tests.live import free_port

Run = Callable[..., Result]


def launched(tmp_path: Path) -> SqliteStore:
    store = SqliteStore(tmp_path / "home" / STORE_NAME)
    store.put("wish", "m", {"uid": "m"})
    return store


def test_what_was_backed_up_is_restored(cluster: Run, tmp_path: Path) -> None:
    store, saved = launched(tmp_path), tmp_path / "saved"
    done = cluster("backup", str(saved))
    assert (done.exit_code, done.output) == (0, f"1 model, 0 keys and 0 registrations are in {saved}.\n")
    store.delete("wish", "m")
    store.close()
    done = cluster("restore", str(saved), CLUSTER_PORT=str(free_port()))
    assert done.exit_code == 0 and done.output.startswith(f"1 model, 0 keys and 0 registrations are back from {saved};")
    assert SqliteStore(tmp_path / "home" / STORE_NAME).all("wish") == {"m": {"uid": "m"}}


def test_a_backup_that_is_there_is_replaced_only_by_force(cluster: Run, tmp_path: Path) -> None:
    launched(tmp_path)
    assert cluster("backup", str(tmp_path / "saved")).exit_code == 0
    done = cluster("backup", str(tmp_path / "saved"))
    assert done.exit_code == 2 and "--force" in done.stderr
    assert cluster("backup", str(tmp_path / "saved"), "--force").exit_code == 0


def test_nothing_is_restored_under_a_cluster_that_runs(cluster: Run, server: FakeServer, tmp_path: Path) -> None:
    launched(tmp_path)
    assert cluster("backup", str(tmp_path / "saved")).exit_code == 0
    server.on("GET /health", {})
    before = (tmp_path / "home" / STORE_NAME).read_bytes()
    done = cluster("restore", str(tmp_path / "saved"), CLUSTER_PORT=server.url.rpartition(":")[2])
    assert done.exit_code == 11 and "stop it with `cluster down` first" in done.stderr
    assert (tmp_path / "home" / STORE_NAME).read_bytes() == before
