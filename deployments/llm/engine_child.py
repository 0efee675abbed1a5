"""An engine that is a program of another environment: started, watched, and ended with all that belongs to it.

Nothing is left of it when it, any process of its own, its guard or the worker dies: see `engine_guard`.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from cluster import errors
from cluster.worker.peak import ADOPTED

log = logging.getLogger("cluster.worker.worker")

GUARD = Path(__file__).with_name("engine_guard.py")
LINES = 400
LINE_LETTERS = 2000
#: Of a line in an error.
LETTERS = 300
#: How long the guard may take to end the engine.
END_S = 15.0
#: How long the last lines of an engine that has ended may take to be read.
READ_S = 1.0
#: What a line that tells of a failure has, and what has it without doing so.
_FAILURE = re.compile(r"(?:error|exception): ", re.IGNORECASE)
_MEMORY = re.compile(r"out of memory|OutOfMemory|Free memory on device|No available memory|MemoryError", re.IGNORECASE)
_HINT = re.compile(r"initialization failed|EngineDeadError|\b(?:WARNING|INFO) \d\d-\d\d ")
#: Who wrote a line, when, and in which file.
_HEAD = re.compile(r"^(?:\([^)]{0,60}\)\s*)?(?:[A-Z]+ \d\d-\d\d [\d:.]+ \[[^\]]*\]\s*)?")


class EngineChild:
    def __init__(self, command: Sequence[str], environment: Mapping[str, str], on_end: Callable[[], None]) -> None:
        """`on_end` is called in a thread of its own when the engine has ended, however it did, and nothing is left."""
        self._lines: deque[str] = deque(maxlen=LINES)
        self.heard_at = time.monotonic()
        self.lines = 0
        self._on_end = on_end
        self._has_ended = threading.Event()
        living, self._life = os.pipe()
        self._log, logged = os.pipe()
        heard, said = os.pipe()
        # It only forks, and returns at once.
        subprocess.run(
            [sys.executable, "-I", "-S", str(GUARD), str(said), *command],
            stdin=living,
            stdout=logged,
            stderr=logged,
            pass_fds=(said,),
            env=dict(environment),
            cwd="/",
            check=False,
        )
        for end in (living, logged, said):
            os.close(end)
        self._said = os.fdopen(heard)
        #: The group is that of the engine's processes.
        self.guard, self.group = map(int, (self._said.readline() or "0 0").split())
        if self.guard:
            ADOPTED.add(self.guard)
        self._reader = threading.Thread(target=self._read, name="engine log", daemon=True)
        self._reader.start()
        threading.Thread(target=self._wait, name="engine end", daemon=True).start()

    @property
    def has_ended(self) -> bool:
        return self._has_ended.is_set()

    def end(self) -> None:
        """Returns when nothing is left of it."""
        life, self._life = self._life, -1
        if life >= 0:
            os.close(life)
        self._has_ended.wait(END_S)

    def failure(self) -> errors.ClusterError:
        """What its log says of its end."""
        self._reader.join(READ_S)
        said = self.last_words(True) or ", and its log says nothing."
        if _MEMORY.search(said):
            return errors.OutOfMemory(f"The engine had too little memory{said}")
        return errors.LoadFailed(f"The engine ended{said}")

    def last_words(self, are_any: bool = False) -> str:
        """The line of its log that says what is wrong, or any at all, with what joins it to a sentence."""
        lines = [line for line in self._lines if line.strip()]
        failures = [line for line in lines if _FAILURE.search(line) and not _HINT.search(line)]
        # Memory runs out first; what follows follows from that.
        for those in ([line for line in failures if _MEMORY.search(line)], failures, lines if are_any else []):
            if those:
                return f": {_HEAD.sub('', those[-1]).strip()[:LETTERS]}"
        return ""

    def _read(self) -> None:
        """Nobody else reads it, and the engine would wait for a reader."""
        with os.fdopen(self._log, "rb") as lines:
            for raw in lines:
                line = raw.decode(errors="replace").rstrip()[:LINE_LETTERS]
                self.heard_at = time.monotonic()
                self.lines += 1
                self._lines.append(line)
                log.info("engine: %s", line)

    def _wait(self) -> None:
        with self._said as said:
            is_done = any(line == "done\n" for line in said)
        # A guard that was killed took the first of the engine's processes with it, and no other.
        if self.group and not is_done:
            with suppress(OSError):
                os.killpg(self.group, signal.SIGKILL)
        ADOPTED.discard(self.guard)
        self._has_ended.set()
        self._on_end()
