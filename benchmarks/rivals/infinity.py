"""Infinity: its torch engine, and its ONNX engine (optimum) in fp32 and with int8 weights."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.rivals.server import Environment, Running, Server, process
from benchmarks.workloads import EMBEDDING, MAX_TOKENS, RERANK, WEIGHTS
from tests.live import free_port

HERE = Path(__file__).parent
EXPORT = HERE / "export_onnx.py"


def environment_of(environments: Path, engine: str) -> Environment:
    return Environment(environments / f"infinity-{engine}", HERE / f"infinity-{engine}.txt", with_torch=True)


def onnx_folder(environments: Path, kind: str, precision: str) -> Path:
    return environments / "onnx" / kind / precision


def export(environments: Path) -> None:
    """The same weights as ONNX, made in the environment of Infinity's ONNX engine, for every server that reads ONNX."""
    environment = environment_of(environments, "onnx")
    environment.install()
    done = environments / "onnx" / "exported.py"
    if done.exists() and done.read_text() == EXPORT.read_text():
        return
    print("  exporting the weights as ONNX", flush=True)
    for kind in (EMBEDDING, RERANK):
        words = [str(WEIGHTS[kind]), kind, str(MAX_TOKENS[kind]), str(environments / "onnx" / kind)]
        subprocess.run(
            [str(environment.python), str(EXPORT), *words],
            check=True,
            capture_output=True,
            cwd=environments,
        )
    done.write_text(EXPORT.read_text())


class Infinity(Server):
    def __init__(self, engine: str, precision: str) -> None:
        self.name = f"infinity-{engine}" + ("-int8" if precision == "int8" else "")
        self.precision = precision
        self._engine = engine

    def install(self, environments: Path) -> None:
        environment_of(environments, self._engine).install()
        if self._engine == "onnx":
            export(environments)

    @contextmanager
    def started(self, kind: str, environments: Path, log: Path) -> Iterator[Running]:
        is_onnx = self._engine == "onnx"
        folder = onnx_folder(environments, kind, self.precision) if is_onnx else WEIGHTS[kind]
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        program = environment_of(environments, self._engine).python.parent / "infinity_emb"
        # Its ONNX engine knows a local folder only as the one it was started in.
        command = [str(program), "v2", "--model-id", "." if is_onnx else str(folder), "--served-model-name", kind]
        command += ["--engine", "optimum" if is_onnx else "torch", "--device", "cpu", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--log-level", "error"]
        command += ["--pooling-method", "mean"] if is_onnx else ["--dtype", "float32"]
        environment = {
            "DO_NOT_TRACK": "1",
            "INFINITY_ANONYMOUS_USAGE_STATS": "0",
            "HF_HUB_OFFLINE": "1",
            # Where it would keep an optimised model under the name of the folder, which is `.` for all of them.
            "HF_HUB_CACHE": str(environments / "cache" / kind / self.name),
        }
        with process(command, url, "/models", environment, log, folder) as started:
            yield Running(url, (started.pid,), kind, "/embeddings", "/rerank")


def every() -> list[Server]:
    return [Infinity("torch", "fp32"), Infinity("onnx", "fp32"), Infinity("onnx", "int8")]
