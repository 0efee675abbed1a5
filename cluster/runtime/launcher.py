"""What commands use to start and stop the cluster of this machine, or to serve on a Ray that runs already."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys

import psutil

from cluster import errors
from cluster.control.store_file import check_store, settle
from cluster.joining import Versions, fit
from cluster.runtime import ray_head
from cluster.runtime.deploying import admit, serve_apart
from cluster.runtime.join import head_of
from cluster.runtime.place import Place
from cluster.runtime.watchdog import StartRequest, StartResult, answers, wait_for_health
from cluster.settings import Settings

#: How long everything may take to end in order.
END_S = 60.0


class Running:
    """A cluster that this command started, or that it serves on somebody else's Ray."""

    def __init__(
        self, settings: Settings, result: StartResult, watchdog: subprocess.Popen[bytes] | None = None
    ) -> None:
        self._settings = settings
        self._watchdog = watchdog
        self.result = result

    def goes_on(self) -> bool:
        """False once it was stopped by another command. A watchdog that was killed is replaced."""
        ended = self._watchdog.poll() if self._watchdog is not None else None
        if ended:
            self._watchdog, _ = _start_watchdog(self._settings, None)
        return ended != 0

    def stop(self) -> None:
        """Ends what was started here. Somebody else's Ray goes on, and so does what is served on it."""
        if self._watchdog is not None and self._watchdog.poll() is None:
            stop(self._settings)
            self._watchdog.wait()


def start(settings: Settings, address: str | None, *, ingress_nodes: int = 0, admin_key: str | None = None) -> Running:
    """Starts everything, or serves on the Ray cluster at that address; returns when it answers."""
    home = Place(settings)
    home.prepare()
    if address is None:
        watchdog, result = _start_watchdog(settings, admin_key)
        return Running(settings, result, watchdog)
    # Refused while another cluster of this home lives. Not kept: processes of other machines may share the home.
    home.take().close()
    notice = check_store(home.store)
    os.environ.update(settings.as_environment())
    os.environ.update(ray_head.ray_variables(home, ours=False))
    if admin_key is not None:
        admit(settings, admin_key)
    new_key = serve_apart(settings, address, home, ingress_nodes)
    wait_for_health(settings)
    return Running(settings, StartResult(new_key, notice))


def upgrade(settings: Settings) -> tuple[Versions, Versions]:
    """Puts this version in the place of the one that runs; returns both when it serves."""
    place = Place(settings)
    state = place.read()
    if state is None:
        raise errors.Unavailable(f"No cluster of {settings.home} was started on this machine.")
    if state.get("joined"):
        raise errors.Conflict(
            f"This machine has joined the cluster at {state['url']}: leave it with `cluster down`, which has its "
            "models moved first, and join again with the new version."
        )
    if state["url"] != settings.url:
        raise errors.Conflict(f"The cluster serves at {state['url']}; an upgrade cannot move it to {settings.url}.")
    before = _running(place, state["url"])
    if not fit(before, own := Versions.here()):
        raise errors.Conflict(
            f"{before} runs and {own} is installed: with another Python or Ray, or further than one version, stop the "
            "cluster with `cluster down` and start it again with `cluster up`."
        )
    _start_watchdog(settings, None, is_upgrade=True)
    after = _running(place, state["url"])
    if after != own:
        raise errors.Conflict(
            f"{after} still runs, though {own} is installed here: Ray starts its processes with {_python_of(place)}, "
            "so install it there."
        )
    return before, after


def _running(place: Place, url: str) -> Versions:
    return head_of(url, place.token.read_text().strip()).versions


def _python_of(place: Place) -> str:
    ray = ray_head.RayHead.of(place)
    return ray.raylet.environ().get("CLUSTER_PYTHON", "another Python") if ray is not None else "another Python"


def _start_watchdog(
    settings: Settings, admin_key: str | None, *, is_upgrade: bool = False
) -> tuple[subprocess.Popen[bytes], StartResult]:
    """Returns when everything serves."""
    log = Place(settings).log
    with log.open("ab") as file:
        # A session of its own: Ctrl-C in the terminal is for the command, which then has it end everything in order.
        process = subprocess.Popen(
            [sys.executable, "-c", "from cluster.runtime.watchdog import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            start_new_session=True,
        )
    try:
        assert process.stdin is not None and process.stdout is not None
        with process.stdin, process.stdout:
            process.stdin.write(pickle.dumps(StartRequest(settings, admin_key, is_upgrade)))
            process.stdin.close()
            answer = process.stdout.read()
    # Also when this command is interrupted: what it started must not go on alone.
    except BaseException:
        process.terminate()
        process.wait(END_S)
        raise
    try:
        result: StartResult | errors.ClusterError = pickle.loads(answer)
    except EOFError:
        tail = log.read_text(errors="replace").splitlines()[-1:]
        raise errors.Unavailable(f"Nothing was started; {log} ends with: {' '.join(tail)}") from None
    if isinstance(result, errors.ClusterError):
        raise result
    return process, result


def stop(settings: Settings) -> None:
    """Ends the cluster of this home, whichever command started it. What is wanted stays for the next time."""
    home = Place(settings)
    watchdog = home.holder()
    if watchdog is not None:
        _end(watchdog)
    elif home.read() is None:
        raise errors.Unavailable(f"No cluster of {settings.home} was started on this machine.")
    # Processes that a watchdog has left behind which was killed or did not finish.
    ray_head.end(home)
    settle(home.store)
    shutil.rmtree(home.private, ignore_errors=True)


def refuse_living(settings: Settings) -> None:
    """Raises while the cluster runs, for commands that change its files."""
    home = Place(settings)
    if home.holder() is not None or ray_head.processes_of(home) or answers(settings):
        raise errors.Conflict(f"The cluster of {settings.home} runs; stop it with `cluster down` first.")


def _end(watchdog: int) -> None:
    """Asks it to end everything in order, then insists."""
    try:
        process = psutil.Process(watchdog)
        process.send_signal(signal.SIGTERM)
        process.wait(END_S)
    except psutil.NoSuchProcess:
        return
    except psutil.TimeoutExpired:
        process.kill()
