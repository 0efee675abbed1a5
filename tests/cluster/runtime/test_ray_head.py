from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.runtime.place import Place
from cluster.runtime.ray_head import RUN, end, is_alive, name_of, processes_of
from cluster.settings import Settings

WAITS = "import sys; print('.', flush=True); sys.stdin.read()"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    prepared = Place(Settings(home=tmp_path / "home"))
    prepared.prepare()
    prepared.state.write_text(json.dumps({"run": "this-run"}))
    yield prepared
    shutil.rmtree(prepared.private, ignore_errors=True)


def waiting(program: str, cwd: Path, **variables: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(cwd)],
        cwd=cwd,
        env={**os.environ, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.read(1)
    return process


@pytest.fixture
def ours(place: Place) -> Iterator[subprocess.Popen[bytes]]:
    """A process of this run, with a child that has lost the environment that says so."""
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WAITS!r}], env={{}})"
    with waiting(child, place.home, **{RUN: "this-run"}) as process:
        yield process
        process.kill()


@pytest.fixture
def stranger(place: Place) -> Iterator[subprocess.Popen[bytes]]:
    """Somebody else's process: in our folder, with the folder's name among its arguments, and with the settings of this
    home."""
    with waiting(WAITS, place.temp, CLUSTER_HOME=str(place.home), **{RUN: "another"}) as process:
        yield process
        process.kill()


def test_only_what_was_started_is_ended(
    place: Place, ours: subprocess.Popen[bytes], stranger: subprocess.Popen[bytes]
) -> None:
    found = processes_of(place)
    assert ours.pid in {process.pid for process in found} and len(found) == 2
    end(place)
    assert not any(map(is_alive, found))
    assert stranger.poll() is None
    assert processes_of(place) == [] and not place.temp.exists()


def test_a_process_that_has_ended_has_no_name() -> None:
    child = subprocess.Popen(["sleep", "60"])
    process = psutil.Process(child.pid)
    child.kill()
    child.wait()
    assert name_of(process) == "" and name_of(psutil.Process()) != ""
