"""How long a start takes, what the control plane costs when idle, and how fast fifty small models launch.

python -m benchmarks.startup [--models 50]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import psutil

from cluster import AsyncClient
from tests.live import LiveCluster


def pss_mb(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss) / 1e6
    except psutil.Error:
        return 0.0


def name_of(process: psutil.Process) -> str:
    words = process.cmdline() or [process.name()]
    return words[0].rsplit("/", 1)[-1] if not words[0].endswith("python3") else " ".join(words[1:3]).rsplit("/", 1)[-1]


async def launch_many(url: str, count: int) -> float:
    started = time.monotonic()
    async with AsyncClient(url) as client:
        names = [f"tiny-{number}" for number in range(count)]
        await asyncio.gather(
            *(client.launch_model(model_name="echo", model_type="echo", model_uid=name) for name in names)
        )
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=50)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cluster = LiveCluster(Path(folder), CLUSTER_LOG_LEVEL="WARNING")
        try:
            print(
                f"`cluster up` to the first answer of /health: {cluster.up():.1f} s, the command's own start included"
            )
            time.sleep(5)  # what was only needed for the start goes away
            rows = sorted(((pss_mb(p), name_of(p)) for p in cluster.processes()), reverse=True)
            print(f"idle control plane: {sum(mb for mb, _ in rows):.0f} MB PSS in {len(rows)} processes")
            for mb, name in rows:
                print(f"  {mb:6.0f} MB  {name[:70]}")
            seconds = asyncio.run(launch_many(cluster.url, asked.models))
            print(f"{asked.models} launches at once, all READY: {seconds:.1f} s")
            rows = [(pss_mb(p), name_of(p)) for p in cluster.processes()]
            print(f"with them: {sum(mb for mb, _ in rows):.0f} MB PSS in {len(rows)} processes")
        finally:
            cluster.down()


if __name__ == "__main__":
    main()
