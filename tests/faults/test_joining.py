"""Machines that join by the command, each with a home and an address of its own on this machine."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest

from cluster import errors
from cluster.joining import Invitation, Versions, proof
from cluster.runtime.place import Place
from cluster.runtime.ray_head import name_of, processes_of
from cluster.settings import Settings
from cluster.status import ModelState
from tests.faults.traffic import traffic
from tests.hub import Hub
from tests.live import ROOT, LiveCluster, free_port, until

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CE_TINY = ROOT / "deployments" / "text" / "rerank" / "ce-tiny"
#: What a refusal may take.
REFUSED_S = 5.0


class Machine:
    """A machine that joins, or tries to."""

    def __init__(self, cluster: LiveCluster, home: Path, ip: str) -> None:
        self.home, self.ip = home, ip
        self.settings = Settings(home=home)
        self._cluster = cluster
        self.token = Place(cluster.settings).token
        self.command: subprocess.Popen[bytes] | None = None
        self.said = home.with_suffix(".txt")

    def words(self, *more: str, head: str = "") -> list[str]:
        head = head or f"127.0.0.1:{self._cluster.port}"
        return self._cluster.command_line(
            *("join", head, "--token-file", str(self.token), "--address", self.ip, "--name", self.ip, *more)
        )

    @property
    def environment(self) -> dict[str, str]:
        return {**self._cluster.environment, "CLUSTER_HOME": str(self.home)}

    def join(self, *more: str) -> float:
        """Returns the seconds until it is there."""
        started = time.monotonic()
        with self.said.open("wb") as said:
            self.command = subprocess.Popen(self.words(*more), env=self.environment, cwd=ROOT, stderr=said)
        until(self.row, within=30, why=f"{self.ip} is not there")
        return time.monotonic() - started

    def row(self) -> dict[str, object] | None:
        with self._cluster.client() as client:
            return next((row for row in client.cluster_info() if row["name"] == self.ip), None)

    def refusal(self, *more: str, head: str = "") -> tuple[int, str]:
        """The exit code and the sentence of a join that is refused."""
        started = time.monotonic()
        words = self.words(*more, head=head)
        done = subprocess.run(words, env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=30)
        assert time.monotonic() - started < REFUSED_S
        assert done.stderr.count("\n") == 1, done.stderr
        return done.returncode, done.stderr

    def raylet(self) -> psutil.Process | None:
        return next((p for p in processes_of(Place(self.settings)) if name_of(p) == "raylet"), None)

    def leave(self) -> tuple[int, str]:
        """By Ctrl-C."""
        assert self.command is not None
        self.command.send_signal(signal.SIGINT)
        self.command.wait(60)
        assert not processes_of(Place(self.settings))
        return self.command.returncode, self.said.read_text()

    def end(self) -> None:
        if self.command is not None and self.command.poll() is None:
            self.leave()


@pytest.fixture
def machines(breakable: LiveCluster, tmp_path: Path) -> Iterator[list[Machine]]:
    machines = [Machine(breakable, tmp_path / f"m{number}", f"127.0.0.{number}") for number in (21, 22)]
    yield machines
    for machine in machines:
        machine.end()
        if machine.said.exists():
            print(f"\n{machine.ip}: {machine.said.read_text()}")


def nodes_of(cluster: LiveCluster, uid: str) -> list[str]:
    with cluster.client() as client:
        status = client.status(uid)
    return sorted(w.node for w in status.workers if w.state == "READY") if status.state == ModelState.READY else []


def fetched_once(cluster: LiveCluster, machine: Machine, hub: Hub) -> None:
    """Weights that the head has cost the hub nothing when a machine needs them; they are listed and deleted on both."""
    hub.add("org/tiny", {path.name: path.read_bytes() for path in CE_TINY.iterdir() if path.is_file()})
    entry = {"version": 2, "model_name": "from-a-hub", "model_id": "org/tiny", "language": ["en"], "max_tokens": 512}
    with cluster.client() as client:
        client.register_model("rerank", json.dumps(entry), persist=True)
        client.launch_model("from-a-hub", "rerank", model_uid="there", worker_ip="127.0.0.1")
        hub.served.clear()
        started = time.monotonic()
        client.launch_model("from-a-hub", "rerank", model_uid="elsewhere", worker_ip=machine.ip)
        print(f"\nwith weights of the neighbour: READY after {time.monotonic() - started:.1f} s")
        assert hub.served.total() == 0
        assert {row["actor_ip_address"] for row in client.list_cached_models("from-a-hub")} == {"127.0.0.1", machine.ip}
        with pytest.raises(errors.Conflict, match="is launched with these weights"):
            client.delete_cached_models("from-a-hub")
        for uid in ("there", "elsewhere"):
            client.terminate_model(uid)
        until(lambda: not client.statuses(), within=15)
        assert client.delete_cached_models("from-a-hub")
        assert client.list_cached_models("from-a-hub") == []
        client.unregister_model("rerank", "from-a-hub")
    assert not list(machine.home.glob("weights/*/models--*"))


def test_machines_join_come_back_and_leave_under_traffic(
    breakable: LiveCluster, machines: list[Machine], counting_hub: Hub
) -> None:
    first, second = machines
    joined = first.join("--labels", "gpu=none,zone=b"), second.join()
    assert max(joined) < 15, joined
    row = first.row()
    assert row is not None and row["labels"] == {"gpu": "none", "zone": "b"} and row["state"] == "ready"
    assert row["version"] == Versions.here().cluster
    assert oct(Place(first.settings).token.stat().st_mode)[-3:] == "600"
    fetched_once(breakable, first, counting_hub)
    with breakable.client() as client:
        client.launch_model("echo", "echo", model_uid="moves", worker_ip=None, replica=3)
        with pytest.raises(errors.BadRequest, match="There is no node elsewhere"):
            client.mark_node("elsewhere", "draining")
    assert nodes_of(breakable, "moves") == ["127.0.0.1", first.ip, second.ip]
    code, said = first.refusal()
    assert code == 11 and "has joined the cluster at" in said

    with traffic(breakable.url, "moves", callers=8) as seen:
        raylet = first.raylet()
        assert raylet is not None
        raylet.kill()
        lost = time.monotonic()
        until(lambda: (r := first.raylet()) is not None and r.pid != raylet.pid, within=30, why="no other raylet")
        until(first.row, within=30, why="it is not back")
        back = time.monotonic() - lost
        until(lambda: len(nodes_of(breakable, "moves")) == 3, within=60, why="not READY again")

        done = breakable.command("drain", second.ip)
        assert done.returncode == 0 and "Nothing runs on 127.0.0.22 any more" in done.stdout, done.stderr
        assert second.ip not in nodes_of(breakable, "moves")
        row = second.row()
        assert row is not None and row["state"] == "draining" and row["workers"] == 0
        assert breakable.command("uncordon", second.ip).returncode == 0
        assert breakable.command("cordon", second.ip).returncode == 0
        row = second.row()
        assert row is not None and row["state"] == "cordoned"
        shown = json.loads(breakable.command("nodes", "--json").stdout)
        assert {node["name"]: node["state"] for node in shown}[second.ip] == "cordoned"

        assert breakable.command("uncordon", second.ip).returncode == 0
        leaving = time.monotonic()
        code, said = first.leave()
        left = time.monotonic() - leaving
        assert code == 0 and said.rstrip().endswith("Left."), said
        assert first.ip not in nodes_of(breakable, "moves")
    print(
        f"\njoined after {joined[0]:.1f} and {joined[1]:.1f} s, back after {back:.1f} s, left in {left:.1f} s: {seen}"
    )
    assert seen.failures == []


def test_a_machine_joins_again_when_the_head_was_started_anew(breakable: LiveCluster, machines: list[Machine]) -> None:
    machine = machines[0]
    machine.join()
    before = machine.raylet()
    assert before is not None
    head = next(p for p in processes_of(Place(breakable.settings)) if name_of(p) == "raylet" and p.pid != before.pid)
    head.kill()
    killed = time.monotonic()
    until(lambda: (r := machine.raylet()) is not None and r.pid != before.pid, within=60, why="it does not join again")
    until(machine.row, within=30, why="it is not there again")
    print(f"\nthe head was killed: the machine is there again after {time.monotonic() - killed:.1f} s")


def test_every_refusal_is_one_sentence(breakable: LiveCluster, machines: list[Machine], tmp_path: Path) -> None:
    machine = machines[0]
    code, said = machine.refusal(head=f"127.0.0.1:{free_port()}")
    assert code == 9 and "No cluster answers at 127.0.0.1" in said
    code, said = machine.refusal(head="192.0.2.1:9997")
    assert code == 9 and "No cluster answers at 192.0.2.1" in said
    code, said = machine.refusal("--labels", "a b=c")
    assert code == 2 and "labels takes name=value" in said
    own, head = Versions.here(), f"127.0.0.1:{free_port()}"
    token = machine.token.read_text()
    good = Invitation(versions=own, unix=time.time(), address="127.0.0.1:9", session="s", object_store_bytes=10**8)
    wrong = {
        "runs 9.9.9": good.model_copy(update={"versions": own.model_copy(update={"cluster": "9.9.9"})}),
        "behind the head's": good.model_copy(update={"unix": time.time() + 90}),
        "Ray's port 9 of 127.0.0.1 does not": good,
    }
    for words, invitation in wrong.items():
        with answering(head, invitation, token):
            code, said = machine.refusal(head=head)
        assert code == (9 if invitation is good else 11) and words in said
        if words.startswith("runs"):
            assert f"this machine {own}" in said
    machine.token = tmp_path / "other.token"
    machine.token.write_text("of another cluster")
    code, said = machine.refusal()
    assert code == 10 and "The token is not this cluster's" in said
    with answering(head, good, token):
        code, said = machine.refusal(head=head)
    assert code == 10 and "does not have this token" in said
    machine.token.write_text("")
    code, said = machine.refusal()
    assert code == 10 and "is empty" in said
    assert not machine.home.joinpath("run", "cluster.json").exists(), "nothing was left behind"


class answering:
    """Something at the address of a head that answers with this invitation."""

    def __init__(self, head: str, invitation: Invitation, token: str) -> None:
        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                text = invitation.model_dump_json()
                body = json.dumps({"text": text, "seal": proof(token, "answer", asked["nonce"], text)}).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        host, _, port = head.partition(":")
        self._server = HTTPServer((host, int(port)), Answer)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
