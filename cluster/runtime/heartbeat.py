"""Signs of life by files: a process that stops touching its file hangs, even if the kernel says that it lives.

The time of a file is the machine's monotonic clock, which is never set and stands still while a laptop sleeps.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

#: How often a process shows that it lives.
EVERY_S = 1.0


class Heart:
    """One process's file; `beat` is to be called from the event loop that must not hang."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._path = folder / f"{kind}-{os.getpid()}"
        self._next = 0.0

    def beat(self) -> None:
        now = time.monotonic_ns()
        if now < self._next:
            return
        self._next = now + EVERY_S * 1e9
        try:
            try:
                os.utime(self._path, ns=(now, now))
            except FileNotFoundError:
                self._path.touch(mode=0o600)
                os.utime(self._path, ns=(now, now))
        except OSError:
            # A process without a file is not watched; a full disk is no reason to end it.
            return

    def stop(self) -> None:
        """The process ends in order, or does no more work: nobody need watch it."""
        with suppress(OSError):
            self._path.unlink()


@dataclass(frozen=True)
class Beat:
    kind: str
    pid: int
    age_s: float


def beats(folder: Path) -> Iterator[Beat]:
    """Every process with a file, and how long ago it touched it. Files of processes that ended are removed."""
    now = time.monotonic_ns()
    for path in folder.glob("*-*"):
        kind, _, pid = path.name.rpartition("-")
        try:
            os.kill(int(pid), 0)
            yield Beat(kind, int(pid), (now - path.stat().st_mtime_ns) / 1e9)
        except (ValueError, ProcessLookupError):
            path.unlink(missing_ok=True)
        except OSError:
            continue
