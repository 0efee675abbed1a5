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
#: What a line that tells of a failure has, and what says only that another line has told of it.
_FAILURE = re.compile(r"(?:error|exception): ", re.IGNORECASE)
_MEMORY = re.compile(r"out of memory|OutOfMemory|Free memory on device|No available memory|MemoryError", re.IGNORECASE)
_HINT = re.compile(r"initialization failed|EngineDeadError")
#: Who wrote a line, when, and in which file.
_HEAD = re.compile(r"^(?:\([^)]{0,60}\)\s*)?(?:[A-Z]+ \d\d-\d\d [\d:.]+ \[[^\]]*\]\s*)?")


class EngineChild:
    """Made in a thread that lives as long as the worker: the guard ends with that thread."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], on_end: Callable[[], None]) -> None:
        """`on_end` is called in a thread of its own when the engine has ended, however it did."""
        self._lines: deque[str] = deque(maxlen=LINES)
        self.heard_at = time.monotonic()
        self.lines = 0
        self._on_end = on_end
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARD), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Not that of a terminal, whose Ctrl-C would be its end before it has ended the engine.
            start_new_session=True,
            env=dict(environment),
            cwd="/",
        )
        assert self._guard.stdout is not None
        #: Of the engine's processes.
        self.group = int(self._guard.stdout.readline().strip() or 0)
        self._reader = threading.Thread(target=self._read, name="engine log", daemon=True)
        self._reader.start()
        threading.Thread(target=self._wait, name="engine end", daemon=True).start()

    @property
    def has_ended(self) -> bool:
        return self._guard.poll() is not None

    def end(self) -> None:
        """Returns when nothing is left of it."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._guard.wait(END_S)

    def failure(self) -> errors.ClusterError:
        """What its log says of its end."""
        self._reader.join(READ_S)
        said = self.last_words or ", and its log says nothing."
        if _MEMORY.search(said):
            return errors.OutOfMemory(f"The engine had too little memory{said}")
        return errors.LoadFailed(f"The engine ended{said}")

    @property
    def last_words(self) -> str:
        """The line of its log that says what is wrong; empty, or with what joins it to a sentence."""
        line = self._failed_line()
        return f": {line[:LETTERS]}" if line else ""

    def _failed_line(self) -> str:
        lines = [_HEAD.sub("", line).strip() for line in self._lines]
        failures = [line for line in lines if _FAILURE.search(line) and not _HINT.search(line)]
        # Memory runs out first; what follows follows from that.
        for those in ([line for line in lines if _MEMORY.search(line)], failures, [line for line in lines if line]):
            if those:
                return those[-1]
        return ""

    def _read(self) -> None:
        """Nobody else reads it, and the engine would wait for a reader."""
        assert self._guard.stdout is not None
        with self._guard.stdout as lines:
            for raw in lines:
                line = raw.decode(errors="replace").rstrip()[:LINE_LETTERS]
                self.heard_at = time.monotonic()
                self.lines += 1
                self._lines.append(line)
                log.info("engine: %s", line)

    def _wait(self) -> None:
        is_killed = self._guard.wait() != 0
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        # The kernel has ended the first of its processes with it, and no other.
        if is_killed and self.group:
            with suppress(OSError):
                os.killpg(self.group, signal.SIGKILL)
        self._on_end()
