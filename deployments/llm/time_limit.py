"""Ends what a thread does in Python after some time, wherever it is, but not one long operation of a library."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class OutOfTime(Exception):
    """Raised within the block, between any two of its steps."""

    def __str__(self) -> str:
        return "it takes too long"


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    thread, lock = threading.get_ident(), threading.Lock()
    is_over = False

    def end() -> None:
        with lock:
            if not is_over:
                _raise_in(thread, OutOfTime)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with lock:
            is_over = True
            # It may have been raised only just now, and would come up elsewhere.
            _raise_in(thread, None)


def _raise_in(thread: int, kind: type[Exception] | None) -> None:
    raised = ctypes.py_object(kind) if kind is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)
