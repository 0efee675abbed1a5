"""Xinference's own command line, as it is on the index, run in a process of its own."""

from __future__ import annotations

import os
import tempfile
from functools import cache

from tests.clients.packages import installed
from tests.imported import ImportedProgram
from tests.live import ROOT

#: Without all that its server needs.
PACKAGES = ("xinference==4.1.0", "xoscar==0.12.2", "pandas==3.1.1", "tblib==3.2.2")
TIMEOUT_S = 90.0


def xinference(url: str, *words: str, typed: str = "") -> str:
    """All that the command prints when that is typed. Its exit status is that of success even when a launch fails."""
    environment = {**_environment(), "XINFERENCE_ENDPOINT": url}
    done = _command().run(["xinference", *words], environment, folder=ROOT, timeout=TIMEOUT_S, typed=typed)
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed[-2000:]
    return printed


@cache
def _command() -> ImportedProgram:
    return ImportedProgram("xinference.deploy.cmdline", "cli", _environment())


def _environment() -> dict[str, str]:
    folder = installed(*PACKAGES, dependencies=False)
    return {**os.environ, "PYTHONPATH": str(folder), "XINFERENCE_HOME": tempfile.gettempdir()}
