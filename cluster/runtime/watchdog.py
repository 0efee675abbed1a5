"""What `cluster up` leaves behind: starts Ray and what runs on it, and does so again when they end or hang.

Ray restarts the processes that it started itself. Nobody restarts Ray's own: that is done here. Holds the sockets that
callers connect to, so that they wait through a restart; and the lock that says that this home's cluster runs.
"""

from __future__ import annotations

import logging
import os
import pickle
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, Literal, NoReturn

import httpx
import psutil

from cluster import errors
from cluster.control.sqlite_store import SqliteStore
from cluster.control.store import ITSELF
from cluster.control.store_file import check_store, settle
from cluster.joining import Versions
from cluster.runtime import forkserver, ray_head
from cluster.runtime.deploying import admit, is_current, serve_apart
from cluster.runtime.handover import Holder, handed_over
from cluster.runtime.heartbeat import Beat, beats
from cluster.runtime.place import Place, cannot_write
from cluster.runtime.ray_head import RayHead, is_alive, is_of
from cluster.settings import Settings
from cluster.status import Event

log = logging.getLogger("cluster.runtime.watchdog")

#: How often it looks.
LOOK_S = 0.3
HEALTH_TIMEOUT_S = 90.0
#: A process that shows no sign of life for so long is ended, and Ray starts another. The supervisor gets longer because
#: no request waits for it.
PATIENCE_S = {"ingress": 10.0, "supervisor": 15.0}
#: A control process that ends again so soon after it was replaced cannot read what was written down.
GCS_RELAPSE_S = 30.0
#: How long the ingress may take for what it had accepted when Ray's node process ended; all others wait for that.
FINISH_S = 5.0
#: Starts that came to nothing, or to an end within this time, make the next one wait.
CALM_S, LONGEST_PAUSE_S = 600.0, 60.0


# ------------------------------------------------------------------------------------------------ decisions

Step = Literal["nothing", "replace gcs", "start again"]


@dataclass(frozen=True)
class RayState:
    """Ray's own processes at one moment."""

    raylet_lives: bool
    gcs_lives: bool
    #: The control process writes down what it knows.
    is_durable: bool
    seconds_since_gcs: float


def next_step(ray_state: RayState) -> Step:
    if not ray_state.raylet_lives:
        return "start again"
    if ray_state.gcs_lives:
        return "nothing"
    return "replace gcs" if ray_state.is_durable and ray_state.seconds_since_gcs > GCS_RELAPSE_S else "start again"


def hung(signs: Iterable[Beat]) -> list[Beat]:
    return [beat for beat in signs if beat.age_s > PATIENCE_S.get(beat.kind, float("inf"))]


def pause_before(starts: Sequence[float], now: float) -> float:
    """Seconds to wait before the next start, given when the last ones were."""
    recent = sum(now - start < CALM_S for start in starts)
    return min(2.0 ** (recent - 1), LONGEST_PAUSE_S) if recent else 0.0


# ------------------------------------------------------------------------------------------------ actions


@dataclass(frozen=True)
class StartRequest:
    """What a watchdog is started with."""

    settings: Settings
    admin_key: str | None = None
    #: In place of the watchdog, the supervisor and the ingresses that run; Ray and the workers go on.
    is_upgrade: bool = False


@dataclass(frozen=True)
class StartResult:
    """What it answers when everything serves."""

    #: Made when the cluster asks for keys and had none. It is not stored and cannot be shown again.
    new_key: str | None = None
    #: What had to be done for the store before it could be used.
    notice: str | None = None
    #: It ran already, without a watchdog.
    is_adopted: bool = False


class Watchdog:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._place = Place(settings)
        self._run = secrets.token_hex(8)
        self._holder: Holder | None = None
        self._ray: RayHead | None = None
        self._gcs_since = float("-inf")
        #: When everything was started anew.
        self._starts: list[float] = []
        self._is_in_charge = False

    def begin(self, admin_key: str | None) -> StartResult:
        """Returns when it serves; what an earlier run left behind is watched on where it is as it should be."""
        self._ray = self._left_running()
        self._is_in_charge = True
        if self._ray is not None:
            return StartResult(is_adopted=True)
        ray_head.end(self._place)
        refuse_another(self._settings)
        notice = check_store(self._place.store)
        if admin_key is not None:
            admit(self._settings, admin_key)
        return StartResult(self._start(), notice)

    def take_over(self, held: Sequence[socket.socket]) -> StartResult:
        """Puts the supervisor and the ingresses of this version in the place of those that run, which go in order:
        callers are answered by one of them, or wait in the sockets for the next."""
        state, self._ray = self._place.read(), RayHead.of(self._place)
        if state is None or self._ray is None:
            raise errors.Conflict(f"No cluster of {self._place.home} runs that could be upgraded: use `cluster up`.")
        self._run = state["run"]
        self._holder = Holder(self._settings.host, self._settings.port, self._place.listeners, held)
        os.environ.update({**ray_head.ray_variables(self._place, ours=True), ray_head.RUN: self._run})
        end_fork_server(ray_head.processes_of(self._place))
        new_key = serve_apart(self._settings, self._ray.address, self._place, 0)
        wait_for_health(self._settings, self._ray.raylet)
        # Before, a failure must end nothing: the workers serve, and the next upgrade goes on from there.
        self._is_in_charge = True
        self._tell("INFO", f"Upgraded to {Versions.here()}; workers go on as they are.")
        return StartResult(new_key)

    def _left_running(self) -> RayHead | None:
        state = self._place.read()
        ray = RayHead.of(self._place)
        if state is None or ray is None:
            return None
        if not is_current(self._settings, 0, self._place):
            raise errors.Conflict(
                f"The cluster of {self._place.home} runs already, at {state['url']} and with other settings, though "
                "nobody watches it: stop it with `cluster down` first."
            )
        self._run = state["run"]
        return ray

    def _start(self) -> str | None:
        """Ray, the supervisor, the ingress. Returns a new admin key when one had to be made."""
        self._place.prepare()
        if self._holder is None:
            self._holder = Holder(self._settings.host, self._settings.port, self._place.listeners)
        self._ray = ray_head.start(self._settings, self._place, self._run)
        new_key = serve_apart(self._settings, self._ray.address, self._place, 0)
        wait_for_health(self._settings, self._ray.raylet)
        return new_key

    def watch(self) -> NoReturn:
        while True:
            time.sleep(LOOK_S)
            try:
                self._look()
            # The watchdog must not end, whatever goes wrong here.
            except Exception:
                log.exception("could not look after Ray")

    def _look(self) -> None:
        assert self._ray is not None
        ray_state = RayState(
            is_alive(self._ray.raylet),
            is_alive(self._ray.gcs),
            self._ray.is_durable,
            time.monotonic() - self._gcs_since,
        )
        step = next_step(ray_state)
        if step == "start again":
            what = "Ray's control process" if ray_state.raylet_lives else "Ray's node process"
            if not ray_state.raylet_lives:
                self._let_ingress_finish()
            self._start_again(f"{what} ended; everything is started again.")
        elif step == "replace gcs":
            self._tell("WARNING", "Ray's control process ended and is replaced; all others go on.")
            self._ray.replace_gcs()
            self._gcs_since = time.monotonic()
        for beat in hung(beats(self._place.beats)):
            self._end_hung(beat)

    def _let_ingress_finish(self) -> None:
        """An ingress whose node process ended answers what it has accepted, and then stops its heart."""
        deadline = time.monotonic() + FINISH_S
        while time.monotonic() < deadline and any(beat.kind == "ingress" for beat in beats(self._place.beats)):
            time.sleep(0.02)

    def _end_hung(self, beat: Beat) -> None:
        try:
            process = psutil.Process(beat.pid)
            # Another process may have got the number meanwhile.
            if is_of(process, self._run):
                self._tell("WARNING", f"The {beat.kind} (pid {beat.pid}) has hung for {beat.age_s:.0f} s and is ended.")
                process.kill()
                process.wait(ray_head.STOP_TIMEOUT_S)
        except psutil.Error as error:
            log.info("%s is not there any more: %s", beat, error)

    def _start_again(self, reason: str) -> None:
        """Tries until it serves again; callers wait meanwhile, or are told why."""
        while True:
            pause = pause_before(self._starts, time.monotonic())
            self._tell("ERROR", reason + (f" Waiting {pause:.0f} s, as it was just started." if pause > 1 else ""))
            time.sleep(pause)
            self._starts = [*self._starts[-9:], time.monotonic()]
            try:
                ray_head.end(self._place)
                check_store(self._place.store)
                self._start()
            # What keeps it from starting may pass: a full disk, for example.
            except (errors.ClusterError, OSError, subprocess.SubprocessError) as error:
                reason = f"It could not be started: {error}"
                continue
            self._tell("INFO", f"Serving again after {time.monotonic() - self._starts[-1]:.1f} s.")
            return

    def _tell(self, level: Literal["INFO", "WARNING", "ERROR"], text: str) -> None:
        """In the log, and in the cluster's events."""
        log.log(logging.getLevelName(level), text)
        try:
            store = SqliteStore(self._settings.store)
            try:
                store.add_event(Event(ts=time.time(), level=level, uid=ITSELF, text=text))
            finally:
                store.close()
        except (errors.ClusterError, sqlite3.Error, OSError) as error:
            log.warning("no event was written: %s", error)

    def end(self) -> None:
        if not self._is_in_charge:
            return
        ray_head.end(self._place)
        settle(self._place.store)
        if self._holder is not None:
            self._holder.close()
        shutil.rmtree(self._place.private, ignore_errors=True)


def succeed(place: Place) -> list[socket.socket]:
    """Ends the watchdog of this home, if there is one, without anything else; returns the sockets that it held."""
    held = handed_over(place.listeners)
    pid = place.holder()
    if pid is not None:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            process.kill()
            process.wait(ray_head.STOP_TIMEOUT_S)
    return held


def end_fork_server(processes: Sequence[psutil.Process]) -> None:
    """It has imported the old version; the next worker starts another one."""
    servers = {}
    for process in processes:
        with suppress(psutil.Error):
            if forkserver.__name__ in process.cmdline():
                servers[process.pid] = process
    for process in servers.values():
        with suppress(psutil.Error):
            # Until it calls itself otherwise, a forked worker looks the same.
            if process.ppid() not in servers:
                process.kill()


def refuse_another(settings: Settings) -> None:
    """Processes of one user may listen on one port together; here that would be a mistake."""
    if answers(settings):
        raise errors.Conflict(
            f"{settings.url} answers already; stop that cluster with `cluster down` or choose --port."
        )
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError:
            raise errors.Conflict(
                f"Port {settings.port} of {settings.host} is taken; choose another with --port."
            ) from None


def wait_for_health(settings: Settings, raylet: psutil.Process | None = None) -> None:
    """Returns when the ingress answers; a Ray that ends meanwhile is not waited for."""
    deadline = time.monotonic() + HEALTH_TIMEOUT_S
    while not answers(settings):
        if raylet is not None and not is_alive(raylet):
            raise errors.Unavailable(f"Ray ended by itself; see {Place(settings).log}.")
        if time.monotonic() > deadline:
            raise errors.Unavailable(f"The ingress does not answer at {settings.url}; see {Place(settings).log}.")
        time.sleep(0.05)


def answers(settings: Settings) -> bool:
    try:
        return httpx.get(f"{settings.url}/health", timeout=2.0).status_code == 200
    except httpx.HTTPError:
        return False


# ------------------------------------------------------------------------------------------------ the process


class _Stopped(BaseException):
    """SIGTERM came."""


def _stop(number: int, frame: object) -> None:
    # A second signal must not interrupt the orderly end.
    signal.signal(number, signal.SIG_IGN)
    raise _Stopped


def main() -> None:
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    request: StartRequest = pickle.load(sys.stdin.buffer)
    settings = request.settings
    # The same for every process of this installation, Ray's included.
    os.environ.update(settings.as_environment())
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        home = Place(settings)
        home.prepare()
        held = succeed(home) if request.is_upgrade else []
        lock = home.take()
    except errors.ClusterError as error:
        _say(answer, error)
        return
    with lock:
        signal.signal(signal.SIGTERM, _stop)
        watchdog = Watchdog(settings)
        try:
            try:
                result = watchdog.take_over(held) if request.is_upgrade else watchdog.begin(request.admin_key)
            except errors.ClusterError as error:
                _say(answer, error)
                return
            except OSError as error:
                _say(answer, cannot_write(settings.home, error))
                return
            _say(answer, result)
            watchdog.watch()
        except _Stopped:
            return
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            watchdog.end()


def _say(answer: BinaryIO, what: StartResult | errors.ClusterError) -> None:
    """The command that waits for the answer may have been ended."""
    try:
        with answer:
            pickle.dump(what, answer)
    except BrokenPipeError:
        log.info("the command that started the watchdog has gone")
