"""What a server to be measured is: how it is installed, started, spoken to and stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.processes import with_children

START_S = 240.0


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    url: str
    pids: tuple[int, ...]
    model: str
    embed_path: str = "/v1/embeddings"
    rerank_path: str = "/v1/rerank"
    #: base64 where a server knows it, which is what OpenAI's client asks for.
    encoding_format: str = "base64"
    #: What it said it computes with, where it chooses.
    engine: str = ""

    def processes(self) -> list[psutil.Process]:
        return list({process.pid: process for pid in self.pids for process in with_children(pid)}.values())


class Server(ABC):
    """One way to serve the models, under a name that --only takes."""

    name: str
    #: fp32, bf16, int8, or auto: what it computes in.
    precision: str
    is_ours = False

    def install(self, environments: Path) -> None:  # noqa: B027  most need nothing
        """Whatever takes long and is done once."""

    @abstractmethod
    def started(self, kind: str, environments: Path, log: Path) -> AbstractContextManager[Running]:
        """The server with the model of this kind and no other, so that memory can be compared."""


class Environment:
    """A virtual environment that is installed once for what its requirements say."""

    def __init__(self, folder: Path, requirements: Path, *, with_torch: bool) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        self._requirements = requirements
        self._with_torch = with_torch

    def install(self) -> None:
        done = self.folder / "installed.txt"
        wanted = self._requirements.read_text()
        if done.exists() and done.read_text() == wanted:
            return
        print(f"  installing {self._requirements.name} into {self.folder}", flush=True)
        if not self.python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(self.folder)], check=True)
        pip = [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        constraint = self.folder / "torch.txt"
        constraint.write_text("torch==2.13.0\n")
        if self._with_torch:
            # First and alone: with it there, nothing else asks for a build of several gigabytes.
            subprocess.run([*pip, "torch==2.13.0"], check=True)
        # Every package is pinned, so that what their own requirements would drag in stays out.
        subprocess.run([*pip, "--no-deps", "--constraint", str(constraint), "-r", str(self._requirements)], check=True)
        done.write_text(wanted)


@contextmanager
def process(
    command: Sequence[str], url: str, ready_path: str, environment: Mapping[str, str], log: Path, folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """The command until it answers, and its whole family gone afterwards."""
    with log.open("ab") as output:
        started = subprocess.Popen(
            list(command),
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
        )
        try:
            _wait_until_ready(started, url + ready_path, log)
            yield started
        finally:
            _stop(started)


def _wait_until_ready(started: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5).status_code == 200:
                return
        if started.poll() is not None:
            raise RuntimeError(f"It ended with {started.returncode}: {_tail(log)}")
        time.sleep(0.2)
    raise RuntimeError(f"It did not answer within {START_S:g} s: {_tail(log)}")


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return " / ".join(lines[-5:])[-600:]


def _stop(started: subprocess.Popen[bytes]) -> None:
    family = with_children(started.pid)
    started.terminate()
    _, alive = psutil.wait_procs(family, timeout=10)
    for one in alive:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(alive, timeout=5)
    started.wait()
