"""Our own cluster with one image model, launched from its folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.rivals.server import Running, Server
from tests.live import LiveCluster


class OurImages(Server):
    name = "ours"
    precision = "fp32"
    is_ours = True

    def __init__(self, folders: Mapping[str, Path], settings: Mapping[str, str]) -> None:
        self._folders = folders
        self._settings = settings

    @contextmanager
    def started(self, kind: str, environments: Path, log: Path) -> Iterator[Running]:
        with tempfile.TemporaryDirectory() as home:
            given = {"CLUSTER_LOG_LEVEL": "WARNING", "CLUSTER_PLUGINS": ""}
            cluster = LiveCluster(Path(home), **{**given, **self._settings})
            try:
                cluster.up()
                folder = str(self._folders[kind])
                with cluster.client() as client:
                    uid = client.launch_model(
                        model_name=f"benchmark-{kind}", model_type="image", model_path=folder, timeout=600
                    )
                    batching = client.describe_model(uid).get("batching", {}).get("seconds_by_samples", {})
                said = ", ".join(f"{samples}: {seconds * 1000:.0f} ms" for samples, seconds in batching.items())
                yield Running(cluster.url, tuple(one.pid for one in cluster.processes()), uid, engine=said)
            finally:
                cluster.down()
