"""What processes cost while something happens: their CPU seconds, and the most memory that they had together."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

SAMPLE_S = 0.5
CHANGED_PAGES = 512


def with_children(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


class Memory:
    """The memory of processes, each page once, however many of them share it (PSS)."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._known: dict[int, tuple[int, int]] = {}

    def total_bytes(self) -> int:
        return sum(self._of(pid) for pid in self._pids)

    def _of(self, pid: int) -> int:
        # The kernel walks every page for it, 20 ms for a gigabyte: only where what is cheap to read has changed.
        try:
            resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            known, pss = self._known.get(pid, (-(10**9), 0))
            if abs(resident - known) > CHANGED_PAGES:
                pss = _pss_bytes(pid)
                self._known[pid] = (resident, pss)
            return pss
        except OSError:
            return 0


def _pss_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def cpu_seconds(processes: Sequence[psutil.Process]) -> dict[int, float]:
    found = {}
    for process in processes:
        with suppress(psutil.Error):
            times = process.cpu_times()
            found[process.pid] = times.user + times.system
    return found


class Meter:
    """`with Meter(processes) as meter: …`; then what they used meanwhile."""

    def __init__(self, processes: Sequence[psutil.Process]) -> None:
        self._processes = processes
        self._over = threading.Event()
        self.peak_bytes = 0
        self.cpu_seconds = 0.0
        #: What the sampling itself took.
        self.own_cpu_seconds = 0.0

    def __enter__(self) -> Self:
        self._before = cpu_seconds(self._processes)
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self) -> None:
        memory = Memory([process.pid for process in self._processes])
        while True:
            self.peak_bytes = max(self.peak_bytes, memory.total_bytes())
            if self._over.wait(SAMPLE_S):
                break
        self.own_cpu_seconds = time.thread_time()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        after = cpu_seconds(self._processes)
        self.cpu_seconds = sum(after[pid] - self._before.get(pid, 0.0) for pid in after)
        self._over.set()
        self._thread.join()
