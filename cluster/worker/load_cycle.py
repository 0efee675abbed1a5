"""When a worker loads its model, drops it to doze, and loads it again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cluster.status import LoadProgress, Report
from cluster.versioned import Versioned

log = logging.getLogger("cluster.worker.worker")


class LoadCycle:
    """May be used from any thread; what takes time has a thread of its own."""

    def __init__(
        self,
        board: Versioned[Report],
        load: Callable[[], None],
        drop: Callable[[], int | None],
        working: Callable[[], int],
    ) -> None:
        """`load` reports what has come of it. `drop` returns what the process still takes, or None where it cannot let
        the model go. `working`: how many calls it has in hand."""
        self._board = board
        self._load = load
        self._drop = drop
        self._working = working
        self._lock = threading.Lock()
        self._is_dropping = False
        #: It was told to load while it dropped its model.
        self._is_woken = False

    def wake(self, **where: Any) -> None:
        """Loads, unless it does or has already."""
        with self._lock:
            phase = self._board.value.phase
            if phase in ("created", "dozing"):
                self._begin_load(**where)
            elif phase == "nodding" and self._is_dropping:
                self._is_woken = True
            elif phase == "nodding":
                self._post(phase="ready")

    def nod(self) -> None:
        """Takes nothing new, and drops its model when what it has is done."""
        with self._lock:
            if self._board.value.phase == "ready":
                self._post(phase="nodding")

    def see_end(self) -> None:
        """A call has ended, or it may have none. Used from the loop that takes calls, once there is one."""
        with self._lock:
            if self._board.value.phase == "nodding" and not self._working() and not self._is_dropping:
                self._is_dropping = True
                threading.Thread(target=self._drop_it, name="drop", daemon=True).start()

    def _drop_it(self) -> None:
        try:
            memory_bytes = self._drop()
        # Whatever a model library raises, the end of the process gives its memory back.
        except Exception:
            log.exception("the model could not be dropped")
            memory_bytes = None
        with self._lock:
            is_woken, self._is_dropping, self._is_woken = self._is_woken, False, False
            if memory_bytes is None or self._board.value.phase != "nodding":
                self._post(phase="drained")
            elif is_woken:
                self._begin_load()
            else:
                self._post(phase="dozing", memory_bytes=memory_bytes, progress=LoadProgress())

    def _begin_load(self, **where: Any) -> None:
        self._post(phase="loading", progress=LoadProgress(), **where)
        threading.Thread(target=self._load, name="load", daemon=True).start()

    def _post(self, **changes: Any) -> None:
        self._board.amend(lambda report: replace(report, **changes))
