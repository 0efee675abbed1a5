from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest

from cluster.catalog.entry import Entry, Source
from cluster.worker.family import Batched, Prepared, Setup
from deployments.text.encoders import choice, trials
from tests.live import ROOT

SOURCE = Source(hub="local", id="/nowhere")
ENTRY = Entry(name="some", type="embedding", family="local", sources=(SOURCE,))


def setup_in(folder: Path, **more: Any) -> Setup:
    return Setup(ENTRY, SOURCE, None, folder, "cpu", 1, engine="auto", **more)


class OnlyLoads(Batched):
    """A family that is loaded and never asked."""

    def prepare(self, ability: str, items: Sequence[Any], params: Mapping[str, Any]) -> Prepared:
        raise NotImplementedError

    def run(self, batch: Sequence[Any]) -> Sequence[object]:
        raise NotImplementedError

    def pack(self, outputs: list[Any], params: Mapping[str, Any]) -> object:
        raise NotImplementedError


class Telling(OnlyLoads):
    def load(self, setup: Setup) -> NoReturn:
        assert setup.engine == choice.TRY
        print("what a library prints")
        setup.report(0.5, "trying something")
        raise choice.Tried


class Crashing(OnlyLoads):
    def load(self, setup: Setup) -> NoReturn:
        os.kill(os.getpid(), signal.SIGSEGV)
        raise AssertionError


class Failing(OnlyLoads):
    def load(self, setup: Setup) -> NoReturn:
        raise ValueError("no such weights")


class Waiting(OnlyLoads):
    def load(self, setup: Setup) -> NoReturn:
        (setup.folder / "pid").write_text(str(os.getpid()))
        time.sleep(60)
        raise AssertionError


def named(family: type) -> str:
    return f"tests.deployments.text.encoders.test_trials:{family.__name__}"


def test_it_says_how_far_it_is(tmp_path: Path) -> None:
    told: list[tuple[Any, ...]] = []
    assert trials.elsewhere(named(Telling), setup_in(tmp_path, report=lambda *how: told.append(how))) == ""
    assert told == [(0.5, "trying something")]


@pytest.mark.parametrize(("family", "reason"), [(Crashing, "it ended with signal 11"), (Failing, "exit code 1")])
def test_what_ends_it_is_told_and_ends_nobody_else(tmp_path: Path, family: type, reason: str) -> None:
    assert reason in trials.elsewhere(named(family), setup_in(tmp_path))


def test_it_ends_with_whoever_asked(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from tests.deployments.text.encoders import test_trials
test_trials.trials.elsewhere({named(Waiting)!r}, test_trials.setup_in(Path({str(tmp_path)!r})))
"""
    # The child does not import from the current folder.
    asking = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)})
    written = tmp_path / "pid"
    deadline = time.monotonic() + 60
    while not (written.exists() and written.read_text()):
        assert time.monotonic() < deadline and asking.poll() is None
        time.sleep(0.05)
    child = psutil.Process(int(written.read_text()))
    asking.kill()
    asking.wait()
    child.wait(10)
