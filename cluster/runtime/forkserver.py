"""Forks Ray's workers from one process that has imported the libraries of the models.

Before a worker loads its model, it spends five seconds of a core, four of them with imports that are the same in every
worker. `ray_python.sh` sends here the arguments, the environment and the open files of each process that the raylet
wants to start. The forked process then runs Ray's own program. Memory pages that nobody writes to are shared, so
further workers also take less memory. What only the workers of one wing import is imported by a second process. It is
forked from the first once the wing has a worker, and the wing's next workers are forked from it.

Nothing depends on this: where no fork server listens, a worker is started as usual.
"""

from __future__ import annotations

import array
import fcntl
import gc
import importlib
import json
import logging
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from cluster.value import JsonObject
from cluster.worker.preload import Preload

log = logging.getLogger("cluster.forkserver")

#: The variable with the path of the socket, for `ray_python.sh`. It is set in all processes of a Ray of our own.
PATH = "CLUSTER_FORKSERVER"
#: Set for workers that must not be forked: those with variables that libraries read at import, and those with a card,
#: which must not be touched before a fork.
UNFORKED = {"CLUSTER_UNFORKED": "1"}
#: Imported before the first fork, and then what the wings name for that. What cannot be imported here is left to the
#: worker that needs it. Ray is not in the list: when it is imported it reads the environment, which is different in
#: each worker.
PRELOADED = ("cluster.worker.worker",)
#: The variables that these libraries read when they are imported. Threads that wait for each other spin for 20
#: microseconds.
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "ACTIVE",
    "GOMP_SPINCOUNT": "2000",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
#: The niceness while it imports, so that everything else goes first, above all workers that are loading at that time.
PATIENCE = 19
#: Workers wait no longer for what it imports. On a busy machine that takes ten times as long as on a quiet one.
IMPORTED_S = 60.0
#: How often it checks whether its raylet still lives.
LOOK_S = 1.0
#: The largest request: more than the arguments and the environment of any process.
MOST_BYTES = 1 << 20


class ForkServer:
    """The fork server as seen by the process that starts workers."""

    def __init__(self, preload: Preload) -> None:
        self._preload = preload
        #: Only a Ray of our own has a fork server, and only on its head; otherwise this is empty.
        self._path = os.environ.get(PATH, "")
        self._process: subprocess.Popen[bytes] | None = None
        #: When the first worker was started that could not be forked yet, by the socket that it would have asked.
        self._awaited: dict[str, float] = {}

    @property
    def is_used(self) -> bool:
        return bool(self._path)

    def ensure(self, family: str) -> str:
        """Starts what is missing. Returns the socket where workers of that family are forked; empty as long as that is
        where all are. It blocks, so it is called in a thread."""
        wing = self._preload.wing_of(family)
        template = Template(self._path_of(wing), self._preload.of_wing[wing]) if wing else None
        if not self._path:
            return ""
        if not _is_listening(self._path):
            self._start(template)
        elif template is not None:
            if _is_listening(template.path):
                return template.path
            _ask_for(template, self._path)
        return ""

    def may_fork(self, family: str, now: float) -> bool:
        """False where a worker of that family should wait: the first one is started as usual, and imports what the fork
        server imports meanwhile. If further ones did, too, all of them would be slower. It blocks."""
        wing = self._preload.wing_of(family)
        path = self._path_of(wing) if wing else self._path
        if _is_listening(path):
            self._awaited.pop(path, None)
            return True
        return not 0 < now - self._awaited.setdefault(path, now) < IMPORTED_S

    def _path_of(self, wing: str) -> str:
        path = Path(self._path)
        return str(path.with_name(f"{path.stem}-{wing.rpartition('.')[2]}.sock"))

    def _start(self, template: Template | None) -> None:
        if self._process is not None and self._process.poll() is None:
            return  # it still imports
        modules = (*PRELOADED, *self._preload.common)
        try:
            self._process = subprocess.Popen(
                command(self._path, int(os.environ["RAY_RAYLET_PID"]), modules, template),
                env={**os.environ, **ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd=Path(self._path).parent,
            )
        except (OSError, KeyError) as error:
            log.warning("workers are not forked: %s", error)


@dataclass(frozen=True)
class Template:
    """A second process that is forked from the first, and imports more before it forks workers itself."""

    path: str
    modules: Sequence[str]

    def as_request(self) -> JsonObject:
        return {"template": self.path, "modules": [*self.modules]}


def _is_listening(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


def _ask_for(template: Template, path: str) -> None:
    """The next worker finds it, or is forked where all are."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server, suppress(OSError):
        server.settimeout(LOOK_S)
        server.connect(path)
        server.send(json.dumps(template.as_request()).encode())
        server.recv(64)


def command(path: str, raylet: int, modules: Sequence[str], template: Template | None = None) -> list[str]:
    """`template`: forked as soon as the modules are imported."""
    first = json.dumps(template.as_request()) if template is not None else ""
    return [sys.executable, "-m", "cluster.runtime.forkserver", path, str(raylet), first, *modules]


def main() -> None:
    path, raylet, first, modules = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
    _serve_all(path, raylet, modules, json.loads(first) if first else None)


def _serve_all(path: Path, raylet: int, modules: Sequence[str], first: JsonObject | None = None) -> None:
    """Imports the modules, and forks processes for as long as the raylet lives."""
    with path.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # another one is starting
        # A forked process has the priority of the thread that forks, and a process may not raise its priority again. So
        # a separate thread imports at low priority.
        preloading = threading.Thread(target=_preload, args=(modules,))
        preloading.start()
        preloading.join()
        # The imported objects live as long as the process. The garbage collector would write into every page of them,
        # and written pages are no longer shared.
        gc.collect()
        gc.freeze()
        # Nobody reads the exit status of forked workers, so the kernel need not keep it.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        listener = _listening(path)
        if first is not None and os.fork() == 0:
            listener.close()
            lock.close()
            _become_template(first, raylet)
        while _is_alive(raylet):
            if not select.select([listener], [], [], LOOK_S)[0]:
                continue
            connection, _ = listener.accept()
            with connection, suppress(OSError, ValueError):
                _serve(connection, (listener, lock), raylet)
        path.unlink(missing_ok=True)


def _preload(modules: Sequence[str]) -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), PATIENCE)
    for module in modules:
        # A library can fail in any way when it is imported; the worker that needs it will say how.
        with suppress(Exception):
            importlib.import_module(module)


def _listening(path: Path) -> socket.socket:
    """It is bound under another name first, so that a client that finds the final name can connect at once."""
    unfinished = path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(unfinished))
    listener.listen(64)
    unfinished.rename(path)
    return listener


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _serve(connection: socket.socket, own: Sequence[socket.socket | IO[str]], raylet: int) -> None:
    """`own`: what no child may keep open. While it did, no other server could listen after the end of this one."""
    request, files = _received(connection)
    try:
        if not request:
            return  # a client only checked whether the server listens
        pid = os.fork()
        if pid == 0:
            for inherited in (connection, *own):
                inherited.close()
            if "template" in request:
                _become_template(request, raylet)
            _become(request, files)
        connection.send(str(pid).encode())
    finally:
        for file in files:
            os.close(file)


def _received(connection: socket.socket) -> tuple[JsonObject, list[int]]:
    files = array.array("i")
    connection.settimeout(LOOK_S)
    message, ancillary, _, _ = connection.recvmsg(MOST_BYTES, socket.CMSG_SPACE(3 * files.itemsize))
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            files.frombytes(content[: len(content) - len(content) % files.itemsize])
    return json.loads(message) if message else {}, list(files)


def _become_template(request: JsonObject, raylet: int) -> NoReturn:
    """What the forked child does that forks others."""
    try:
        os.setsid()
        _serve_all(Path(request["template"]), raylet, request["modules"])
    # This process ends here, and must not go on as the one that it was forked from.
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)


def _become(request: JsonObject, files: list[int]) -> NoReturn:
    """What the forked child does: it runs the program that the raylet asked for, in an environment like that of a new
    process."""
    status = 1
    try:
        # When a worker ends, the raylet kills its whole process group. Without a group of its own that would be
        # everything that was forked.
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for target, file in enumerate(files):
            os.dup2(file, target)
        for file in files:
            os.close(file)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        sys.argv = request["words"]
        sys.path[0] = str(Path(sys.argv[0]).parent)
        _seed()
        runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    # Python does the same with an error that a program does not catch.
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        # The process ends here; nothing may keep it from doing so.
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _seed() -> None:
    """Python seeds its own random numbers again in every fork. These libraries do not, and would draw the same numbers
    in all workers."""
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    if torch := sys.modules.get("torch"):
        torch.seed()


if __name__ == "__main__":
    main()
