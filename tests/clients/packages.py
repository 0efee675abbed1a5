"""Packages of which several versions are tried: each is installed from the index into a folder of its own, once per
machine, and runs in a process of its own, before the packages of the tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: Kept between runs: an installation takes 20 s.
FOLDER = (
    Path(tempfile.gettempdir()) / f"cluster-client-packages-{os.getuid()}-{sys.version_info[0]}{sys.version_info[1]}"
)


def installed(*requirements: str, dependencies: bool = True) -> Path:
    """The folder with these requirements, such as `mistralai==3.7.0`, and all that they need."""
    folder = FOLDER / ",".join(requirements)
    if not folder.exists():
        FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".", dir=FOLDER))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", str(draft)]
        command += [*requirements, *([] if dependencies else ["--no-deps"])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        try:
            draft.rename(folder)
        except OSError:
            # Another run was quicker.
            shutil.rmtree(draft)
    return folder


def answer_of(
    program: str,
    requirements: str | Sequence[str],
    *words: str,
    dependencies: bool = True,
    folders: Sequence[Path] = (),
) -> Any:
    """What a program prints as JSON with these requirements installed, and with folders that come before them."""
    needed = [requirements] if isinstance(requirements, str) else requirements
    path = [*folders, installed(*needed, dependencies=dependencies)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run(
        [sys.executable, "-c", program, *words], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
