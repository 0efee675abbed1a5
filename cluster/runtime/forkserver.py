"""Forks Ray's workers from one process that has imported what models need.

Four of the five seconds that a worker takes of a core before it loads its model are imports, the same ones in every
worker. `ray_python.sh` sends the words, the environment and the files of each process that the raylet wants to start
here; what is forked goes on as Ray's own program. Pages that nobody writes to are shared, so that the second worker
takes less memory as well.

Nothing depends on it: where no fork server listens, a worker is started as usual.
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
from pathlib import Path
from typing import NoReturn

from cluster.value import JsonObject

log = logging.getLogger("cluster.forkserver")

#: Names the socket to `ray_python.sh`, for all processes of a Ray of our own.
PATH = "CLUSTER_FORKSERVER"
#: Set where a worker must not be forked: libraries have read the environment, and must not have touched a card, before.
UNFORKED = {"CLUSTER_UNFORKED": "1"}
#: Imported before the first fork; what cannot be imported is left to the worker that needs it. Not Ray, which reads the
#: environment when it is imported: that of each worker.
PRELOADED = (
    "cluster.worker.worker",
    # First: it imports sentence-transformers without what only training needs.
    "deployments.text.encoders.engines",
    "torch._dynamo",
    "transformers.models.auto.modeling_auto",
    "diffusers.models",
)
#: What these libraries read when they are imported. Threads that wait for each other stay awake for 20 microseconds.
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "ACTIVE",
    "GOMP_SPINCOUNT": "2000",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
#: While it imports, everything else comes first: the workers that are loading just then above all.
PATIENCE = 19
#: How often it looks whether its raylet still lives.
LOOK_S = 1.0
#: More than the words and the environment of any process.
MOST_BYTES = 1 << 20


class ForkServer:
    """As whoever starts workers sees it."""

    def __init__(self) -> None:
        #: Only a Ray of our own has one, and only on its head.
        self._path = os.environ.get(PATH, "")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_used(self) -> bool:
        return bool(self._path)

    def ensure(self) -> None:
        """Starts one where none is there. For threads."""
        is_starting = self._process is not None and self._process.poll() is None
        if not self._path or is_starting or self._is_listening():
            return
        try:
            self._process = subprocess.Popen(
                command(self._path, int(os.environ["RAY_RAYLET_PID"]), PRELOADED),
                env={**os.environ, **ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd=Path(self._path).parent,
            )
        except (OSError, KeyError) as error:
            log.warning("workers are not forked: %s", error)

    def _is_listening(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            try:
                probe.connect(self._path)
            except OSError:
                return False
            return True


def command(path: str, raylet: int, modules: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "cluster.runtime.forkserver", path, str(raylet), *modules]


def main() -> None:
    path, raylet, modules = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    with path.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # another is on its way
        # What is forked has the priority of the thread that forks, and nobody may raise his own again.
        preloading = threading.Thread(target=_preload, args=(modules,))
        preloading.start()
        preloading.join()
        # All of it lives as long as the process. The collector would write into every page, which is then not shared.
        gc.collect()
        gc.freeze()
        # Nobody waits for the ends of forked workers.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        listener = _listening(path)
        while _is_alive(raylet):
            if not select.select([listener], [], [], LOOK_S)[0]:
                continue
            connection, _ = listener.accept()
            with connection, suppress(OSError, ValueError):
                _serve(connection, listener)
        path.unlink(missing_ok=True)


def _preload(modules: Sequence[str]) -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), PATIENCE)
    for module in modules:
        with suppress(Exception):
            importlib.import_module(module)


def _listening(path: Path) -> socket.socket:
    """Bound under another name first: whoever finds it by its own may connect."""
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


def _serve(connection: socket.socket, listener: socket.socket) -> None:
    request, files = _received(connection)
    try:
        if not request:
            return  # somebody asked whether there is anybody
        pid = os.fork()
        if pid == 0:
            listener.close()
            connection.close()
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


def _become(request: JsonObject, files: list[int]) -> NoReturn:
    """The rest of the child's life: the program that the raylet asked for, in an environment as if it were new."""
    status = 1
    try:
        # The raylet ends the whole process group of a worker that ends, which would be all that was forked.
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
    # As Python does with what a program does not catch.
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _seed() -> None:
    """Python seeds its own generator anew in every fork; these would draw the same numbers in all of them."""
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    if torch := sys.modules.get("torch"):
        torch.seed()


if __name__ == "__main__":
    main()
