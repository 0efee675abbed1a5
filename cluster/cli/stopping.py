"""How a command that runs until somebody stops it is told to."""

from __future__ import annotations

import signal
import threading


def on_signals() -> threading.Event:
    """Set by Ctrl-C, SIGTERM or a closed terminal; a second signal interrupts at once."""
    stop_asked = threading.Event()

    def ask(number: int, frame: object) -> None:
        if stop_asked.is_set():
            raise KeyboardInterrupt
        stop_asked.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ask)
    return stop_asked
