from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cluster.runtime.launcher import Running
from cluster.runtime.watchdog import StartResult
from cluster.settings import Settings


def started(program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)


def test_what_somebody_else_stopped_does_not_go_on(tmp_path: Path) -> None:
    watchdog = started("")
    running = Running(Settings(home=tmp_path), StartResult(), watchdog)
    watchdog.communicate()
    assert not running.goes_on()
    # There is nothing left to stop.
    running.stop()


def test_what_is_watched_goes_on(tmp_path: Path) -> None:
    watchdog = started("input()")
    assert Running(Settings(home=tmp_path), StartResult(), watchdog).goes_on()
    watchdog.communicate(b"\n")
