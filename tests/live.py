"""A real cluster for tests: started by the real command, used over HTTP, and with real processes to kill."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from cluster import Client, errors
from cluster.runtime.place import Place
from cluster.runtime.ray_head import processes_of
from cluster.settings import Settings
from tests.imported import ImportedProgram

ROOT = Path(__file__).parent.parent
#: Under another address of this machine `ray start` would use 127.0.0.1, on which a cluster for loopback does not
#: listen.
JOIN = (
    "from ray._private import services; services.resolve_ip_for_localhost = lambda host: host; "
    "from ray.scripts.scripts import main; main()"
)
#: cl100k_base, which tiktoken would download, comes with a client.
VOCABULARIES = Path(str(distribution("llama-index-core").locate_file("llama_index/core/_static/tiktoken_cache")))
#: Nobody listens there.
NO_HUB = "http://127.0.0.1:9"
#: Tests on a machine with four times the work that it can do wait four times as long.
MOST_SLOWNESS = 4.0
T = TypeVar("T")

#: What starts processes that stay has to be a process like any other.
STARTING = ("up", "down", "join", "gateway", "upgrade")


@cache
def _command() -> ImportedProgram:
    return ImportedProgram("cluster.cli", "main", {**os.environ, "PYTHONPATH": str(ROOT)})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def slowness() -> float:
    """How much longer everything may take, since other work wants the same cores."""
    return min(max(os.getloadavg()[0] / (os.cpu_count() or 1), 1.0), MOST_SLOWNESS)


def until(what: Callable[[], T], *, within: float, why: str = "") -> T:
    """Calls `what` until its answer is true, and returns that. Tests poll only for what happens in other processes. A
    control plane that is just being replaced is asked again. `within`: on a machine with nothing else to do."""
    began = time.monotonic()
    while True:
        answer, unavailable = None, None
        try:
            answer = what()
        except errors.Unavailable as error:
            unavailable = error
        if answer:
            return answer
        if (waited := time.monotonic() - began) > within * slowness():
            raise AssertionError(f"not within {waited:.1f} s: {why or what}") from unavailable
        time.sleep(0.05)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class LiveCluster:
    def __init__(self, home: Path, **variables: str) -> None:
        self.home = home
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("CLUSTER_", "RAY_"))}
        self.environment = {
            **inherited,
            "CLUSTER_HOME": str(home),
            "CLUSTER_PORT": str(self.port),
            "CLUSTER_PLUGINS": "tests.families,tests.read_pages,docs.examples.trigrams,docs.examples.language",
            "CLUSTER_ENDPOINT": self.url,
            # Tests share their models, and none of them may disappear while another test uses it.
            "CLUSTER_MAKE_ROOM": "false",
            # A second ingress is only needed where the first one fails.
            "CLUSTER_INGRESS_REPLICAS": "1",
            "TIKTOKEN_CACHE_DIR": str(VOCABULARIES),
            # No hub is asked: what is not there already cannot be launched.
            "HF_ENDPOINT": NO_HUB,
            "MODELSCOPE_ENDPOINT": NO_HUB,
            "PYTHONPATH": str(ROOT),
            **variables,
        }
        self.settings = Settings(home=home, port=self.port)
        self.nodes: list[subprocess.Popen[bytes]] = []

    def ray_environment(self) -> dict[str, str]:
        """The variables that `cluster up` gave to Ray, its token included, for processes that join."""
        given = self.named("gcs_server")[0].environ()
        inherited = {name: value for name, value in given.items() if name.startswith("RAY_")}
        # A cluster on loopback accepts no other machines; those of tests are this one under other addresses.
        return {**self.environment, **inherited, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}

    def add_node(
        self, *, gpus: int = 0, cpus: int = 4, memory_gib: float = 8, ip: str, **variables: str
    ) -> subprocess.Popen[bytes]:
        """Adds a machine, simulated on this one: a raylet of its own with resources that do not exist."""
        state = Place(self.settings).read()
        assert state is not None
        words = ["start", f"--address={state['address']}", "--block", f"--node-ip-address={ip}"]
        words += [f"--num-gpus={gpus}", f"--num-cpus={cpus}", f"--memory={int(memory_gib * 2**30)}"]
        words += ["--object-store-memory=100000000", "--include-log-monitor=false", "--min-worker-port=0"]
        words += ["--max-worker-port=0", f"--dashboard-agent-listen-port={free_port()}"]
        words += [f"--metrics-export-port={free_port()}"]
        node = subprocess.Popen(
            [sys.executable, "-c", JOIN, *words],
            env={**self.ray_environment(), **variables},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.nodes.append(node)
        with self.client() as client:
            until(lambda: ip in {row["ip_address"] for row in client.cluster_info()}, within=30, why=f"no node {ip}")
        return node

    def lose_node(self, node: subprocess.Popen[bytes]) -> None:
        """Kills the raylet and everything that it started, as a power cut would."""
        family = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        node.wait(10)
        self.nodes.remove(node)

    def command_line(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "cluster.cli", *words]

    def command(self, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        if words[0] not in STARTING and _command().is_free:
            return _command().run(["cluster", *words], self.environment, folder=ROOT, timeout=timeout)
        return subprocess.run(
            self.command_line(*words),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=ROOT,
        )

    def up(self, *words: str) -> float:
        """Starts the cluster, and returns the seconds until it serves."""
        started = time.monotonic()
        done = self.command("up", "--detach", *words)
        assert done.returncode == 0, done.stderr
        return time.monotonic() - started

    def down(self) -> None:
        for node in list(self.nodes):
            self.lose_node(node)
        if Place(self.settings).state.exists():
            done = self.command("down")
            assert done.returncode == 0, done.stderr
        assert not self.processes(), "processes were left behind"

    def client(self, api_key: str | None = None) -> Client:
        return Client(self.url, api_key=api_key)

    def processes(self) -> list[psutil.Process]:
        """All processes of this cluster."""
        found = {process.pid: process for process in processes_of(Place(self.settings))}
        for process in psutil.process_iter():
            try:
                # Processes that outlived their parent and have another title than their command line.
                if process.pid != os.getpid() and process.environ().get("CLUSTER_HOME") == str(self.home):
                    found[process.pid] = process
            except psutil.Error:
                continue
        return [process for process in found.values() if is_alive(process)]

    def named(self, word: str) -> list[psutil.Process]:
        return [process for process in self.processes() if word in " ".join(process.cmdline())]

    def worker_pids(self, uid: str) -> list[int]:
        with self.client() as client:
            return sorted(worker.pid for worker in client.status(uid).workers if worker.state == "READY")

    def get(self, path: str, **kwargs: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30, **kwargs)

    def post(self, path: str, body: Any, **kwargs: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=kwargs.pop("timeout", 60), **kwargs)

    def terminate_all(self) -> None:
        with self.client() as client:
            for status in client.statuses():
                client.terminate_model(status.uid)
            until(lambda: not client.statuses(), within=10)
            until(lambda: sum(row["workers"] for row in client.cluster_info()) == 0, within=15, why="a worker is left")

    def kill_everything(self) -> None:
        """Kills every process, as a power cut would."""
        for process in self.processes():
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        until(lambda: not self.processes(), within=10, why="processes survive SIGKILL")
