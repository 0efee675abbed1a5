"""Our own cluster, one model at a time, once for each engine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.rivals.server import Running, Server
from benchmarks.workloads import EMBEDDING
from tests.live import LiveCluster

#: Engine and what it computes in. auto measures the others and takes the fastest that is accurate enough.
ENGINES = {
    "torch": "fp32",
    "torch-bf16": "bf16",
    "onnx": "fp32",
    "onnx-int8": "int8",
    "openvino-bf16": "bf16",
    "openvino-int8": "int8",
    "auto": "auto",
}


class Ours(Server):
    is_ours = True

    def __init__(self, engine: str, settings: Mapping[str, str]) -> None:
        self.name = f"ours-{engine}"
        self.precision = ENGINES[engine]
        self._engine = engine
        self._settings = settings

    @contextmanager
    def started(self, kind: str, environments: Path, log: Path) -> Iterator[Running]:
        with tempfile.TemporaryDirectory() as home:
            # Without the cache of answers: the same texts come again, and computing them is what is measured.
            given = {"CLUSTER_LOG_LEVEL": "WARNING", "CLUSTER_PLUGINS": "", "CLUSTER_CACHE_BYTES": "0"}
            cluster = LiveCluster(Path(home), **{**given, **self._settings})
            try:
                cluster.up()
                name = "all-MiniLM-L6-v2" if kind == EMBEDDING else "ce-tiny"
                with cluster.client() as client:
                    uid = client.launch_model(model_name=name, model_type=kind, model_engine=self._engine, timeout=600)
                    engine = client.describe_model(uid).get("engine", self._engine)
                yield Running(cluster.url, tuple(one.pid for one in cluster.processes()), uid, engine=engine)
            finally:
                cluster.down()
