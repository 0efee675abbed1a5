"""Ray's own processes on this machine: their environment, how they are started, found again and ended.

Our processes are known by a variable in their environment, which all their children inherit. They are never known by
their folder or by a word of their command, which a stranger's shell may have as well.
"""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from cluster import errors
from cluster.joining import MOST_FIXED, Versions, read_ports
from cluster.node_labels import VERSION_LABEL, read_labels
from cluster.runtime import forkserver
from cluster.runtime.place import Place
from cluster.settings import Settings

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0
#: Size at which the log of one process begins anew, and how many old ones are kept.
LOG_BYTES, OLD_LOGS = 50 * 10**6, 3
#: The variable that names the run, in the environment of all its processes.
RUN = "CLUSTER_RUN"
#: Ray's control process writes to memory what its successor must know, where there is so much room: a full disk then
#: does not end it, and it need not wait for one.
SHARED_MEMORY, SHARED_MEMORY_BYTES = Path("/dev/shm"), 2**30
#: Ray starts its processes with `sys.executable`; this script decides what is run in place of each.
RAY_PYTHON = Path(__file__).with_name("ray_python.sh")
START_RAY = (
    "import sys; sys.executable = sys.argv.pop(1); from cluster.runtime.nvml import show_slices; show_slices(); "
    "from ray.scripts.scripts import main; main()"
)


def ray_variables(place: Place, *, ours: bool) -> dict[str, str]:
    """What Ray needs in its environment on every node before it starts."""
    variables = {
        "RAY_SERVE_LOG_TO_STDERR": "0",
        # Finished vectors up to this size come back with the answer instead of by the object store.
        "RAY_max_direct_call_object_size": "2000000",
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_ROTATION_MAX_BYTES": str(LOG_BYTES),
        "RAY_ROTATION_BACKUP_COUNT": str(OLD_LOGS),
        # A process of Ray has dozens of threads, and a heap for each keeps what was freed: of a worker 40 MB.
        "MALLOC_ARENA_MAX": "2",
        # Under memory pressure Ray would end the supervisor and the ingress first; `control.pressure` decides instead.
        "RAY_memory_monitor_refresh_ms": "0",
        # Ray would make all its workers the kernel's first choice, the supervisor too; models do it by themselves.
        "RAY_worker_oom_score_adjustment": "0",
        # One machine stops as a whole: nothing on it can take over what is drained.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }
    if ours:
        variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(place.token)}
        # Ray's page of metrics is its one port that asks for no token, and is not used: /metrics is our own.
        variables |= {"RAY_enable_metrics_collection": "0", "CLUSTER_PYTHON": sys.executable}
    return variables


@dataclass
class RayHead:
    """A Ray of our own. When its node process ends, everything ends with it. Its control process can be replaced while
    all others go on, if it has written down what it knew."""

    address: str
    raylet: psutil.Process
    gcs: psutil.Process
    is_durable: bool
    _gcs_command: list[str]
    _gcs_environment: dict[str, str]

    @classmethod
    def of(cls, place: Place) -> RayHead | None:
        """The Ray of the last run, if both of its processes live."""
        state = place.read() or {}
        named = {name_of(process): process for process in processes_of(place)}
        raylet, gcs = named.get("raylet"), named.get("gcs_server")
        if raylet is None or gcs is None or "address" not in state:
            return None
        variables = gcs.environ()
        is_durable = "RAY_gcs_storage_path" in variables
        return cls(state["address"], raylet, gcs, is_durable, gcs.cmdline(), variables)

    def replace_gcs(self) -> None:
        """Another control process at the same address; it reads what the last one wrote down."""
        gcs = subprocess.Popen(
            self._gcs_command,
            env=self._gcs_environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.gcs = psutil.Process(gcs.pid)


def start(settings: Settings, place: Place, run: str) -> RayHead:
    """Returns when Ray runs."""
    variables = ray_variables(place, ours=True)
    variables[RUN] = run
    if settings.fork_workers:
        variables[forkserver.PATH] = str(place.private / "fork.sock")
    # Ray's processes look this often whether their node process lives, and end when it does not. The watchdog ends them
    # in any case, but lets the ingress answer first what it has accepted, and the workers compute it.
    variables["RAY_raylet_death_check_interval_milliseconds"] = "60000"
    if settings.is_loopback:
        # Else Ray takes another address of this machine for 127.0.0.1, and all of its processes listen on every one.
        variables["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if storage := _durable_storage(place):
        variables |= {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(storage)}
    os.environ.update(variables)
    host = _host_of(settings)
    ports = read_ports(settings.ray_ports)
    address = f"{host}:{ports[0] if ports else free_port()}"
    state = {"run": run, "session": secrets.token_hex(4), "address": address, "url": settings.url}
    place.state.write_text(json.dumps(state))
    words = ["--head", "--include-dashboard=false", "--no-monitor", f"--port={address.rpartition(':')[2]}"]
    words += [f"--temp-dir={place.temp}", f"--ray-client-server-port={free_port()}"]
    labels = read_labels(settings.labels)
    run_ray(place, [*words, *node_words(host, settings.ray_ports, settings.object_store_bytes, labels)], START_RAY)
    head = RayHead.of(place)
    if head is None:
        raise failed_start(place)
    return head


def node_words(
    host: str, ray_ports: str, object_store_bytes: int, labels: Mapping[str, str], name: str = ""
) -> list[str]:
    """What `ray start` is told on every machine."""
    labels = {VERSION_LABEL: Versions.here().cluster, **labels}
    words = ["--disable-usage-stats", "--include-log-monitor=false", f"--node-ip-address={host}"]
    words += [f"--node-name={name or socket.gethostname()}", f"--object-store-memory={object_store_bytes}"]
    words += [f"--labels={','.join(f'{name}={value}' for name, value in labels.items())}"]
    if (ports := read_ports(ray_ports)) is None:
        # An agent that is started again must have the same port.
        return [*words, f"--runtime-env-agent-port={free_port()}", "--min-worker-port=0", "--max-worker-port=0"]
    first, last = ports
    words += [f"--node-manager-port={first + 1}", f"--object-manager-port={first + 2}"]
    words += [f"--runtime-env-agent-port={first + 3}"]
    return [*words, f"--min-worker-port={first + MOST_FIXED}", f"--max-worker-port={last}"]


def run_ray(place: Place, words: Sequence[str], program: str) -> None:
    """Runs `ray start` with the variables of this process."""
    with place.log.open("ab") as log:
        # A session of its own: Ctrl-C in the terminal is for the command, which then ends Ray in order.
        done = subprocess.run(
            [sys.executable, "-c", program, str(RAY_PYTHON), "start", *words],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            cwd=place.temp,
            timeout=START_TIMEOUT_S,
        )
    if done.returncode:
        raise failed_start(place)


def failed_start(place: Place) -> errors.Unavailable:
    tail = place.log.read_text(errors="replace").splitlines()[-5:]
    return errors.Unavailable(f"Ray did not start; {place.log} ends with: {' | '.join(tail)}")


def _host_of(settings: Settings) -> str:
    """The address of Ray on the head: the one that is served on, where that is a single one."""
    if settings.is_loopback:
        return "127.0.0.1"
    try:
        address = ipaddress.ip_address(settings.host)
    except ValueError:
        return own_address()
    return own_address() if address.is_unspecified or address.version != 4 else settings.host


def _durable_storage(place: Place) -> Path | None:
    """A new folder for what Ray's control process must not forget; none where it would have to be on a disk."""
    if not SHARED_MEMORY.is_dir() or shutil.disk_usage(SHARED_MEMORY).free < SHARED_MEMORY_BYTES:
        return None
    folder = _storage_of(place)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    return folder


def _storage_of(place: Place) -> Path:
    return SHARED_MEMORY / place.private.name


def end(place: Place) -> None:
    """Ends everything that `start` started: first asks the raylet, which ends its workers, then kills what is left."""
    ours = processes_of(place)
    raylets = [process for process in ours if name_of(process) == "raylet"]
    for raylet in raylets:
        _quietly(raylet.terminate)
    psutil.wait_procs(raylets, timeout=STOP_TIMEOUT_S)
    # Once more: a worker that was just being started may have appeared since.
    for processes in (ours, processes_of(place)):
        for process in processes:
            _quietly(process.kill)
        psutil.wait_procs(processes, timeout=5)
    place.state.unlink(missing_ok=True)
    for folder in (place.temp, place.beats, _storage_of(place)):
        shutil.rmtree(folder, ignore_errors=True)


def processes_of(place: Place) -> list[psutil.Process]:
    """Every process of the last run. Some of Ray's overwrite their environment and are known as children."""
    state = place.read()
    if state is None:
        return []
    processes: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if is_of(process, state["run"]):
            processes[process.pid] = process
            try:
                processes |= {child.pid: child for child in process.children(recursive=True)}
            except psutil.NoSuchProcess:
                continue
    return list(processes.values())


def is_of(process: psutil.Process, run: str) -> bool:
    try:
        return process.environ().get(RUN) == run
    except (psutil.Error, OSError):
        return False  # another user's, or it ended meanwhile


def name_of(process: psutil.Process) -> str:
    """Empty for one that has ended: when a raylet does, all that it started follow within the same second."""
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def is_alive(process: psutil.Process) -> bool:
    """False for a process that ended but was not waited for, too."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _quietly(action: Callable[[], object]) -> None:
    try:
        action()
    except psutil.Error:
        pass


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def own_address(towards: str = "192.0.2.1") -> str:
    """The address other machines reach this one by, or that one does; no packet is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((towards, 9))
            return str(probe.getsockname()[0])
        except OSError:
            return _address_without_route()


def _address_without_route() -> str:
    """Machines that are connected among themselves only have no route to anywhere else."""
    states = psutil.net_if_stats()
    rows = [row for name, rows in psutil.net_if_addrs().items() if name in states and states[name].isup for row in rows]
    addresses = [ipaddress.IPv4Address(row.address) for row in rows if row.family == socket.AF_INET]
    outside = [address for address in addresses if not address.is_loopback and not address.is_link_local]
    return str(min(outside)) if outside else "127.0.0.1"
