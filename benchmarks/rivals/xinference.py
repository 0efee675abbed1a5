"""Xinference: a supervisor, a worker and a process for the model, which is registered from the local folder."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.rivals.server import Environment, Running, Server, process
from benchmarks.workloads import EMBEDDING, MAX_TOKENS, WEIGHTS
from tests.live import free_port

HERE = Path(__file__).parent


class Xinference(Server):
    name = "xinference"
    precision = "fp32"

    def install(self, environments: Path) -> None:
        self._environment(environments).install()

    def _environment(self, environments: Path) -> Environment:
        return Environment(environments / "xinference", HERE / "xinference.txt", with_torch=True)

    @contextmanager
    def started(self, kind: str, environments: Path, log: Path) -> Iterator[Running]:
        port, metrics_port = free_port(), free_port()
        url = f"http://127.0.0.1:{port}"
        program = self._environment(environments).python.parent / "xinference-local"
        command = [str(program), "--host", "127.0.0.1", "--port", str(port)]
        command += ["--metrics-exporter-port", str(metrics_port), "--log-level", "warning"]
        with tempfile.TemporaryDirectory() as home:
            environment = {
                "XINFERENCE_HOME": home,
                # What it needs is installed already; an environment of the model's own would be downloaded.
                "XINFERENCE_ENABLE_VIRTUAL_ENV": "0",
                "XINFERENCE_AUTH_ADVANCED": "0",
                "HF_HUB_OFFLINE": "1",
                "PATH": f"{program.parent}:/usr/bin:/bin",
            }
            with process(command, url, "/v1/models", environment, log, Path(home)) as started:
                uid = self._launch(url, kind)
                yield Running(url, (started.pid,), uid)

    def _launch(self, url: str, kind: str) -> str:
        name = f"benchmark-{kind}"
        entry = {
            "version": 2,
            "model_name": name,
            "language": ["en"],
            "max_tokens": MAX_TOKENS[kind],
            "model_specs": [
                {"model_format": "pytorch", "quantization": "none", "model_uri": f"file://{WEIGHTS[kind]}"}
            ],
            **({"dimensions": 384} if kind == EMBEDDING else {"type": "normal"}),
        }
        with httpx.Client(base_url=url, timeout=300) as client:
            registered = client.post(
                f"/v1/model_registrations/{kind}", json={"model": json.dumps(entry), "persist": False}
            )
            if registered.status_code != 200:
                raise RuntimeError(f"The model was not registered: {registered.text[:500]}")
            launched = client.post(
                "/v1/models",
                json={
                    "model_uid": name,
                    "model_name": name,
                    "model_type": kind,
                    "model_engine": "sentence_transformers",
                    "n_gpu": None,
                },
            )
            if launched.status_code != 200:
                raise RuntimeError(f"The model was not launched: {launched.text[:500]}")
        return name
