"""Ray's node process, as seen from a process that it started."""

from __future__ import annotations

import os

import psutil

from cluster.runtime.ray_head import is_alive


class Raylet:
    def __init__(self) -> None:
        self._parent = os.getppid()
        pid = os.environ.get("RAY_RAYLET_PID")
        self._process = psutil.Process(int(pid)) if pid else None

    def has_ended(self) -> bool:
        """Cheap as long as the parent is the same: a process is given another parent when its own ends."""
        return self._process is not None and os.getppid() != self._parent and not is_alive(self._process)
