"""Programs whose imports take seconds, run in processes forked from one that has imported them once."""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock, Timer

#: Runs with what is imported, a name of a function of it, and answers one line with another.
SERVER = """
import importlib, json, os, sys, traceback
module, name = sys.argv[1:]
function = getattr(importlib.import_module(module), name)

def run(order):
    for number, path in enumerate(order["files"]):
        os.dup2(os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY), number)
    os.setsid()
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    sys.argv = order["words"]
    try:
        function()
        status = 0
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

for line in sys.stdin:
    child = os.fork()
    if not child:
        run(json.loads(line))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.stdout.write(f"{status}\\n")
    sys.stdout.flush()
"""


class ImportedProgram:
    """A function without arguments that is a program."""

    def __init__(self, module: str, function: str, environment: Mapping[str, str]) -> None:
        self._lock = Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER, module, function],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(self._process.kill)

    @property
    def is_free(self) -> bool:
        """It runs nothing, and has not ended with something that hung."""
        return not self._lock.locked() and self._process.poll() is None

    def run(
        self, words: Sequence[str], environment: Mapping[str, str], *, folder: Path, timeout: float, typed: str = ""
    ) -> subprocess.CompletedProcess[str]:
        with self._lock, tempfile.TemporaryDirectory() as room:
            files = [Path(room) / name for name in ("typed", "out", "errors")]
            for file, text in zip(files, (typed, "", ""), strict=True):
                file.write_text(text)
            order = {"words": list(words), "environment": dict(environment), "folder": str(folder)}
            assert self._process.stdin and self._process.stdout
            print(json.dumps({**order, "files": list(map(str, files))}), file=self._process.stdin, flush=True)
            # Whoever hangs ends with the process that waits for it.
            timer = Timer(timeout, self._process.kill)
            timer.start()
            answer = self._process.stdout.readline()
            timer.cancel()
            assert answer, f"{words} did not end within {timeout:.0f} s: {files[2].read_text()[-2000:]}"
            return subprocess.CompletedProcess(list(words), int(answer), files[1].read_text(), files[2].read_text())
