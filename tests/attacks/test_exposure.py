"""What other users of this machine and of its network can reach of a cluster that is meant for this machine only."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cluster import errors
from cluster.runtime.listening import sockets_of
from cluster.runtime.place import Place
from cluster.settings import Settings
from tests.live import LiveCluster

NOBODY = 65534
#: What each port answers without a token to a request of HTTP or of gRPC.
GREETINGS = (b"GET / HTTP/1.0\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")


def own_addresses() -> list[str]:
    """The addresses under which others may reach this machine."""
    rows = [row for rows in psutil.net_if_addrs().values() for row in rows if row.family == socket.AF_INET]
    return [row.address for row in rows if not row.address.startswith("127.")]


def answers(address: str, port: int) -> bool:
    for greeting in GREETINGS:
        with socket.socket() as caller:
            caller.settimeout(2)
            try:
                caller.connect((address, port))
                caller.sendall(greeting)
                if caller.recv(64):
                    return True
            except OSError:
                continue
    return False


def test_no_port_of_a_default_installation_answers_on_an_address_of_the_network(live: LiveCluster) -> None:
    addresses = own_addresses()
    if not addresses:
        pytest.skip("this machine has no address but loopback")
    sockets = sockets_of(live.processes())
    assert live.port in {found.port for found in sockets} and len(sockets) > 5
    assert answers("127.0.0.1", live.port), "the way of asking works"
    open_to_others = [found for found in sockets for address in addresses if answers(address, found.port)]
    assert open_to_others == []


def test_the_command_says_what_listens_where(live: LiveCluster) -> None:
    done = live.command("ports", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(done.stdout)
    assert {"raylet", "gcs_server"} <= {row["process"] for row in rows}
    assert all(row["is_local"] and not row["is_exposed"] for row in rows)
    assert {row["asks"] for row in rows if row["port"] == live.port} == {"nothing"}
    assert {row["asks"] for row in rows if row["port"] != live.port} == {"token"}, rows


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_another_user_sees_nothing_of_rays_folder(live: LiveCluster) -> None:
    folder = Place(live.settings).temp
    assert next(folder.glob("session_*/sockets")), "it is where Ray keeps its sockets"
    done = subprocess.run(
        [sys.executable, "-c", f"import os; os.setuid({NOBODY}); os.listdir({str(folder)!r})"],
        capture_output=True,
        text=True,
    )
    assert "PermissionError" in done.stderr, done.stderr


def test_a_folder_that_an_older_version_left_open_is_closed(tmp_path: Path) -> None:
    place = Place(Settings(home=tmp_path / "home"))
    place.private = tmp_path / "private"
    place.temp = place.private / "r"
    place.private.mkdir()
    place.private.chmod(0o777)
    place.prepare()
    assert stat.S_IMODE(place.private.stat().st_mode) == 0o700


def test_a_folder_that_leads_elsewhere_or_is_somebody_elses_is_refused(tmp_path: Path) -> None:
    place = Place(Settings(home=tmp_path / "home"))
    place.private = tmp_path / "private"
    place.temp = place.private / "r"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    place.private.symlink_to(elsewhere)
    with pytest.raises(errors.BadRequest, match="is not a folder of this user"):
        place.prepare()
    assert not list(elsewhere.iterdir())


def test_sockets_fit_into_the_longest_path_there_can_be(tmp_path: Path) -> None:
    temp = str(Place(Settings(home=tmp_path / ("long" * 50))).temp).replace(f"-{os.getuid()}-", f"-{2**32 - 2}-")
    assert len(f"{temp}/session_2026-11-29_06-35-34_427898_4194304/sockets/plasma_store".encode()) <= 107
