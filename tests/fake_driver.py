"""A driver of NVIDIA's without a card, for processes that are started with its variables: a library by the real name
with the real functions, which the real binding loads."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_suffix(".c")


class FakeDriver:
    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("there is no C compiler here")
        self._state = folder / "cards"
        library = folder / "libnvidia-ml.so.1"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE)], check=True)
        self.variables = {"LD_LIBRARY_PATH": str(folder), "FAKE_NVML": str(self._state)}

    def show(self, *lines: str) -> None:
        """What it says from now on; the lines are described in the source."""
        new = self._state.with_suffix(".new")
        new.write_text("".join(f"{line}\n" for line in lines))
        new.replace(self._state)
