"""Two machines with a cable between them and no route to anywhere else: network namespaces of this one."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import errors
from cluster.runtime.place import Place
from cluster.runtime.ray_head import processes_of
from cluster.settings import Settings
from tests.faults.traffic import traffic
from tests.k8s.pods import Network
from tests.live import ROOT, LiveCluster, until


def why_not() -> str:
    """Why this machine cannot be two; empty if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    name = f"probe{secrets.token_hex(2)}"
    script = f"ip netns add {name} && ip link add {name} type bridge && ip link del {name}"
    done = subprocess.run(f"{script}; rc=$?; ip netns del {name}; exit $rc", shell=True, capture_output=True, text=True)
    return f"no network namespaces here: {done.stderr.strip()[:200]}" if done.returncode else ""


WHY_NOT = why_not()
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]


class Head(LiveCluster):
    """A cluster on a machine of its own."""

    def __init__(self, home: Path, space: str, address: str) -> None:
        super().__init__(home, CLUSTER_AUTH="off", CLUSTER_HOST="0.0.0.0", CLUSTER_RAY_PORTS="20000-20999")
        self.space = space
        self.url = self.environment["CLUSTER_ENDPOINT"] = f"http://{address}:{self.port}"

    def command_line(self, *words: str) -> list[str]:
        return ["ip", "netns", "exec", self.space, *super().command_line(*words)]


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    made = Network(tmp_path)
    yield made
    made.close()


def placed(head: Head, uid: str) -> list[tuple[str, int]]:
    """Address and process of each worker that is READY."""
    with head.client() as client:
        return sorted((w.node, w.pid) for w in client.status(uid).workers if w.state == "READY")


def test_a_machine_joins_by_its_cable_loses_it_for_a_moment_and_leaves(network: Network, tmp_path: Path) -> None:
    here, beyond = network.address(), network.address()
    spaces = [network.plug(name, address) for name, address in (("head", here), ("beyond", beyond))]
    head, home = Head(tmp_path / "head", spaces[0], here), tmp_path / "beyond"
    joined: subprocess.Popen[bytes] | None = None
    try:
        up = head.up()
        words = ["join", f"{here}:{head.port}", "--token-file", str(Place(head.settings).token)]
        words += ["--name", "beyond", "--labels", "zone=b", "--ray-ports", "20000-20999"]
        command = ["ip", "netns", "exec", spaces[1], sys.executable, "-m", "cluster.cli", *words]
        began = time.monotonic()
        environment = {**head.environment, "CLUSTER_HOME": str(home)}
        with (tmp_path / "said").open("wb") as said:
            joined = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=said)
        with head.client() as client:
            until(lambda: "beyond" in {row["name"] for row in client.cluster_info()}, within=30, why="it is not there")
            print(f"\nup after {up:.1f} s, joined after {time.monotonic() - began:.1f} s")
            client.launch_model("echo", model_uid="labelled", node_labels="zone=b")
            assert [node for node, _ in placed(head, "labelled")] == [beyond]
            with pytest.raises(errors.DoesNotFit, match=rf"{beyond}: no label zone=c"):
                client.launch_model("echo", model_uid="nowhere", node_labels="zone=c")
            client.terminate_model("labelled")
            client.launch_model("echo", model_uid="both", replica=2)
        before = placed(head, "both")
        assert [node for node, _ in before] == [here, beyond]

        with traffic(head.url, "both", callers=4) as seen:
            subprocess.run(["ip", "-n", spaces[1], "link", "set", "eth0", "down"], check=True)
            time.sleep(2.0)
            subprocess.run(["ip", "-n", spaces[1], "link", "set", "eth0", "up"], check=True)
            until(lambda: placed(head, "both") == before, within=20, why="the worker beyond is not used again")
        print(f"the cable down for 2 s: {seen}")
        assert seen.failures == []

        joined.send_signal(signal.SIGINT)
        assert joined.wait(40) == 0, (tmp_path / "said").read_text()
        assert (tmp_path / "said").read_text().rstrip().endswith("Left.")
        assert {node for node, _ in placed(head, "both")} == {here}
    finally:
        if joined is not None and joined.poll() is None:
            joined.send_signal(signal.SIGINT)
            joined.wait(60)
        head.down()
        for space in spaces:
            subprocess.run(["ip", "netns", "del", space], check=True)
    assert not processes_of(Place(Settings(home=home)))
