"""Libraries that are no servers, behind the same small FastAPI program: sentence-transformers and fastembed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.rivals import infinity
from benchmarks.rivals.server import Environment, Running, Server, process
from benchmarks.workloads import WEIGHTS
from tests.live import free_port

HERE = Path(__file__).parent


class _Library(Server):
    @contextmanager
    def started(self, kind: str, environments: Path, log: Path) -> Iterator[Running]:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        words = [str(HERE / "small_server.py"), self.name, kind, str(self.folder(kind, environments)), str(port)]
        environment = {"HF_HUB_OFFLINE": "1"}
        with process([self.python(environments), *words], url, "/ready", environment, log, HERE) as started:
            yield Running(url, (started.pid,), kind)

    def python(self, environments: Path) -> str:
        raise NotImplementedError

    def folder(self, kind: str, environments: Path) -> Path:
        raise NotImplementedError


class SentenceTransformers(_Library):
    """With our own libraries: the very ones that our torch engine builds on."""

    name = "sentence-transformers"
    precision = "fp32"

    def python(self, environments: Path) -> str:
        return sys.executable

    def folder(self, kind: str, environments: Path) -> Path:
        return WEIGHTS[kind]


class Fastembed(_Library):
    name = "fastembed"
    precision = "fp32"

    def install(self, environments: Path) -> None:
        self._environment(environments).install()
        # It reads ONNX only, and a package has none of these weights.
        infinity.export(environments)

    def _environment(self, environments: Path) -> Environment:
        return Environment(environments / "fastembed", HERE / "fastembed.txt", with_torch=False)

    def python(self, environments: Path) -> str:
        return str(self._environment(environments).python)

    def folder(self, kind: str, environments: Path) -> Path:
        return infinity.onnx_folder(environments, kind, self.precision)
