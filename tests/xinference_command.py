"""Xinference's own command line, as it is on the index, run in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from tests.clients.packages import installed

#: Without all that its server needs.
PACKAGES = ("xinference==4.1.0", "xoscar==0.12.2", "pandas==3.1.1", "tblib==3.2.2")
PROGRAM = "from xinference.deploy.cmdline import cli; cli()"
TIMEOUT_S = 90.0


def xinference(url: str, *words: str) -> str:
    """All that the command prints. It succeeds by its exit status also when a launch fails, and says so."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(installed(*PACKAGES, dependencies=False)),
        "XINFERENCE_ENDPOINT": url,
        "XINFERENCE_HOME": tempfile.gettempdir(),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        stdin=subprocess.DEVNULL,
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed[-2000:]
    return printed
