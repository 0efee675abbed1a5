"""Starts and stops a cluster on this machine, or joins one that Ray runs already.

What it starts it also ends, and nothing else: Ray gets folders and ports of its own, by which its processes are known.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import pickle
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import psutil

from cluster import errors
from cluster.keys import Key, new_key
from cluster.settings import Settings
from cluster.store import Store
from cluster.store_file import check_store, settle

log = logging.getLogger("cluster.daemon")

START_TIMEOUT_S = 90.0
SERVE_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 20.0
#: Size at which the log of one process begins anew, and how many old ones are kept.
LOG_BYTES, OLD_LOGS = 50 * 10**6, 3
#: Of Ray's processes those that nobody uses here, by a word of their command: remote drivers, which cost 50 MB and a
#: port, and a dashboard that was told to show nothing, 77 MB.
UNUSED = ("ray.util.client.server", "ray/dashboard/dashboard.py")


class Place:
    """Where the processes of one installation keep their files: short paths, readable by their owner only."""

    def __init__(self, settings: Settings) -> None:
        self.store = settings.store
        self.run = settings.home / "run"
        self.state = self.run / "cluster.json"
        self.log = settings.home / "logs" / "ray.log"
        self.token = self.run / "ray.token"
        # Ray's sockets live deep below it and their paths have 107 bytes at most; a home folder may be anywhere.
        name = hashlib.sha256(str(settings.home).encode()).hexdigest()[:8]
        root = Path("/tmp") if sys.platform == "linux" else Path(tempfile.gettempdir())
        self.private = root / f"cluster-{os.getuid()}-{name}"
        # Ray opens the folder that it is given to everybody, so it gets one inside of ours.
        self.temp = self.private / "r"

    def prepare(self) -> None:
        for folder in (self.run, self.log.parent, self.private):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _make_private(self.private)
        self.temp.mkdir(exist_ok=True, mode=0o700)
        if not self.token.exists():
            descriptor = os.open(self.token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))

    def read(self) -> dict[str, Any] | None:
        try:
            return dict(json.loads(self.state.read_text()))
        except (OSError, ValueError):
            return None


def _make_private(folder: Path) -> None:
    """Everybody may write to /tmp: the folder may have been put there by somebody else, or lead elsewhere."""
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise errors.BadRequest(f"{folder} is not a folder of this user; remove it, then start again.")
    folder.chmod(0o700)


class Running:
    """A cluster that was started, or joined."""

    def __init__(self, place: Place, is_ours: bool) -> None:
        self._place = place
        self._is_ours = is_ours
        self.raylet: psutil.Process | None = None
        #: Made when the cluster asks for keys and had none; nobody can show it again.
        self.new_key: str | None = None

    def check(self) -> None:
        """Raises when Ray has ended by itself."""
        if self.raylet is not None and not self.raylet.is_running():
            raise errors.Unavailable(f"Ray ended by itself; see {self._place.log} and {self._place.temp}.")

    def stop(self) -> None:
        """Ends what was started here; a cluster that was only joined goes on."""
        if self._is_ours:
            _stop_ray(self._place)
            settle(self._place.store)


def start(settings: Settings, address: str | None, *, ingress_nodes: int = 0, admin_key: str | None = None) -> Running:
    """Starts everything, or serves on the Ray cluster at that address; returns when it answers."""
    if address is None:
        # A Ray that somebody else runs may have brought back the ingress of its last time by itself.
        _refuse_another(settings)
    # The same for every process of this installation, Ray's included.
    os.environ.update(settings.as_environment())
    place = Place(settings)
    place.prepare()
    if told := check_store(settings.store):
        log.warning(told)
    running = Running(place, is_ours=address is None)
    try:
        if address is None:
            running.raylet, address = _start_ray(settings, place)
        else:
            os.environ.update(_ray_environment(place, ours=False))
        if admin_key is not None:
            _admit(settings, admin_key)
        running.new_key = _serve_apart(settings, address, place, ingress_nodes)
        _wait_for_health(settings, running)
    except BaseException:
        running.stop()
        raise
    return running


def _refuse_another(settings: Settings) -> None:
    if _answers(settings):
        raise errors.Conflict(
            f"{settings.url} answers already; stop that cluster with `cluster down` or choose --port."
        )
    if not _is_free(settings.host, settings.port):
        raise errors.Conflict(f"Port {settings.port} of {settings.host} is taken; choose another with --port.")


def stop(settings: Settings) -> None:
    """Stops what `start` left running; wishes stay for the next time."""
    place = Place(settings)
    if place.read() is None:
        raise errors.Unavailable(f"No cluster of {settings.home} was started on this machine.")
    _stop_ray(place)
    settle(place.store)


def refuse_living(settings: Settings) -> None:
    """For what may only be done to the files of a cluster that does not run."""
    if processes_of(Place(settings)) or _answers(settings):
        raise errors.Conflict(f"The cluster of {settings.home} runs; stop it with `cluster down` first.")


# ------------------------------------------------------------------------------------------------- Ray


def _ray_environment(place: Place, *, ours: bool) -> dict[str, str]:
    """Everything Ray must be told, on every node, before it starts."""
    environment = {
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
        # Under memory pressure Ray would end the supervisor and the ingress first: `cluster.pressure` decides instead.
        "RAY_memory_monitor_refresh_ms": "0",
        # Ray would make all its workers the kernel's first choice, the supervisor too; models do it by themselves.
        "RAY_worker_oom_score_adjustment": "0",
        # One machine stops as a whole: nothing on it can take over what is drained.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }
    if ours:
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(place.token)}
        # Its page of metrics is the one port that asks for no token, and nobody reads it: /metrics is our own.
        environment["RAY_enable_metrics_collection"] = "0"
    return environment


def _start_ray(settings: Settings, place: Place) -> tuple[psutil.Process, str]:
    """A Ray head of our own; returns the process whose end is the cluster's, and the address."""
    if place.read() is not None:
        # Processes may have outlived whoever started them, after a kill -9 for one.
        _stop_ray(place)
        place.prepare()
    os.environ.update(_ray_environment(place, ours=True))
    if settings.is_loopback:
        # Else Ray takes another address of this machine for 127.0.0.1, and all of its processes listen on every one.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    port, host = _free_port(), "127.0.0.1" if settings.is_loopback else _own_address()
    address = f"{host}:{port}"
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--include-dashboard=false"]
    command += ["--disable-usage-stats", "--no-monitor", "--include-log-monitor=false"]
    command += [f"--node-ip-address={host}", f"--port={port}", f"--temp-dir={place.temp}"]
    command += [f"--dashboard-agent-listen-port={_free_port()}", f"--metrics-export-port={_free_port()}"]
    command += [f"--ray-client-server-port={_free_port()}", "--min-worker-port=0", "--max-worker-port=0"]
    command += [f"--object-store-memory={settings.object_store_bytes}"]
    place.state.write_text(json.dumps({"address": address, "url": settings.url}))
    with place.log.open("ab") as log:
        # A session of its own: Ctrl-C in the terminal is for the command, which then ends Ray in order.
        done = subprocess.run(
            command,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            cwd=place.temp,
            timeout=START_TIMEOUT_S,
        )
    ours = processes_of(place)
    raylet = next((process for process in ours if process.name() == "raylet"), None)
    if done.returncode or raylet is None:
        tail = place.log.read_text(errors="replace").splitlines()[-5:]
        raise errors.Unavailable(f"Ray did not start; {place.log} ends with: {' | '.join(tail)}")
    place.state.write_text(json.dumps({"pid": raylet.pid, "address": address, "url": settings.url}))
    for process in ours:
        if any(word.endswith(UNUSED) for word in process.cmdline()):
            _quietly(process.kill)
    return raylet, address


def _stop_ray(place: Place) -> None:
    """Ends everything that `start` started: asks the raylet, which ends its workers, then insists."""
    ours = processes_of(place)
    raylets = [process for process in ours if process.name() == "raylet"]
    for raylet in raylets:
        _quietly(raylet.terminate)
    psutil.wait_procs(raylets, timeout=STOP_TIMEOUT_S)
    # Once more: a worker that was just being started may have appeared since.
    for processes in (ours, processes_of(place)):
        for process in processes:
            _quietly(process.kill)
        psutil.wait_procs(processes, timeout=5)
    place.state.unlink(missing_ok=True)
    shutil.rmtree(place.private, ignore_errors=True)


def processes_of(place: Place) -> list[psutil.Process]:
    """Every process that names our own folder, which nobody else's does, and what came of it."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and str(place.temp) in " ".join((*process.cmdline(), process.cwd())):
                found |= {one.pid: one for one in (process, *process.children(recursive=True))}
        except psutil.Error:
            continue
    return list(found.values())


def _quietly(action: Callable[[], object]) -> None:
    try:
        action()
    except psutil.Error:
        pass


# ------------------------------------------------------------------------------------------------ serving


def connect(settings: Settings, address: str) -> None:
    # Only now: Ray and Serve read their settings from the environment when they are imported.
    import ray

    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            ray.init(address=address, namespace=settings.namespace, log_to_driver=False, logging_level="ERROR")
            return
        except ConnectionError as error:
            if time.monotonic() > deadline:
                raise errors.Unavailable(f"Ray at {address} does not answer: {error}") from None
            time.sleep(0.2)


def _serve_apart(settings: Settings, address: str, place: Place, ingress_nodes: int) -> str | None:
    """In a process of its own, with which Ray's libraries go: whoever waits for Ctrl-C has no use for 100 MB."""
    try:
        with place.log.open("ab") as log:
            done = subprocess.run(
                [sys.executable, "-m", "cluster.daemon"],
                input=pickle.dumps((settings, address, ingress_nodes)),
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                timeout=SERVE_TIMEOUT_S,
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise errors.Unavailable(f"Nothing is served after {SERVE_TIMEOUT_S:.0f} s; see {place.log}.") from None
    if done.returncode:
        tail = place.log.read_text(errors="replace").splitlines()[-1:]
        raise errors.Unavailable(f"Nothing could be served; {place.log} ends with: {' '.join(tail)}")
    told: str | errors.ClusterError | None = pickle.loads(done.stdout)
    if isinstance(told, errors.ClusterError):
        raise told
    return told


def _main() -> None:
    """The other side of it. What libraries print on stdout is no answer."""
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    settings, address, ingress_nodes = pickle.load(sys.stdin.buffer)
    told: str | errors.ClusterError | None
    try:
        told = _serve(settings, address, Place(settings), ingress_nodes)
    except errors.ClusterError as error:
        told = error
    with answer:
        pickle.dump(told, answer)


def _serve(settings: Settings, address: str, place: Place, ingress_nodes: int) -> str | None:
    """The supervisor and the ingress; returns a new admin key when one had to be made."""
    connect(settings, address)
    import ray
    from ray import serve

    from cluster import actors
    from deployments.ingress.app import APP_NAME, deployed

    # Its import sets it to something more talkative.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        is_current = _retire_outdated(settings, ingress_nodes, place)
        supervisor = actors.Control.start(settings)
        serve.start(proxy_location="Disabled")
        try:
            serve.run(deployed(settings), name=APP_NAME, route_prefix=None)
        except RuntimeError as error:
            told = [one.message for one in serve.status().applications[APP_NAME].deployments.values()] or [str(error)]
            # The message ends with the traceback, and that with the reason.
            raise errors.Unavailable(f"The ingress does not start: {told[0].strip().splitlines()[-1]}") from None
        if ingress_nodes:
            _serve_elsewhere(settings, ingress_nodes, is_current)
        if not settings.asks_for_keys:
            return None
        if asyncio.run(supervisor.call_patiently("all_keys")):
            return None
        _, text = asyncio.run(supervisor.call("create_key", "admin", ["admin"], None))
        return str(text)
    finally:
        ray.shutdown()


def _serve_elsewhere(settings: Settings, nodes: int, is_current: bool) -> None:
    """One more ingress on each node that is there for it; the head's goes on. Nodes may come later."""
    from ray import serve

    from deployments.ingress.app import APP_NAME, deployed

    name = f"{APP_NAME}-nodes"
    if is_current and name in serve.status().applications:
        # They answered while the head was away; Ray Serve would replace them all.
        return
    app = serve.RunTarget(target=deployed(settings, nodes), name=name, route_prefix=None)
    serve.run_many([app], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def _admit(settings: Settings, text: str) -> None:
    """Writes down a key that was made elsewhere, always under the same id: another takes its place."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    key: Key = new_key("admin", ["admin"])[0].model_copy(update={"id": "given", "digest": digest})
    store = Store(settings.store)
    try:
        known = store.get("key", key.id)
        if known is None or known["digest"] != digest:
            store.put("key", key.id, key.model_dump(mode="json"))
    finally:
        store.close()


def _retire_outdated(settings: Settings, ingress_nodes: int, place: Place) -> bool:
    """Ray may have brought back the supervisor of its last time, with the settings and the keys of that time. Where the
    settings differ it goes for good, and the ingresses with theirs are replaced; otherwise it reads the store anew.
    Returns whether they are the same."""
    import ray

    from cluster import actors

    digest = _digest(settings, ingress_nodes)
    made_with = place.run / "supervisor.settings"
    is_current = made_with.exists() and made_with.read_text() == digest
    made_with.write_text(digest)
    try:
        found = ray.get_actor(actors.SUPERVISOR, settings.namespace)
    except ValueError:
        return is_current
    ray.kill(found, no_restart=not is_current)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while not is_current and time.monotonic() < deadline:
        try:
            ray.get_actor(actors.SUPERVISOR, settings.namespace)
        except ValueError:
            break
        time.sleep(0.1)
    return is_current


def _digest(settings: Settings, ingress_nodes: int) -> str:
    """Of all that the supervisor and the ingresses are made with."""
    told = f"{settings.model_dump_json()} {ingress_nodes} {metadata.version('model-cluster')}"
    return hashlib.sha256(told.encode()).hexdigest()


def _wait_for_health(settings: Settings, running: Running) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _answers(settings):
        running.check()
        if time.monotonic() > deadline:
            raise errors.Unavailable(f"The ingress does not answer at {settings.url}; see {Place(settings).log}.")
        time.sleep(0.05)


# ------------------------------------------------------------------------------------------------ small things


def _answers(settings: Settings) -> bool:
    try:
        return httpx.get(f"{settings.url}/health", timeout=2.0).status_code == 200
    except httpx.HTTPError:
        return False


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _own_address() -> str:
    """The address other machines reach this one by; no packet is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


if __name__ == "__main__":
    _main()
