"""Whether memory stays flat: what the worker and the whole cluster hold over thousands of rerank calls.

    python -m benchmarks.flat_memory [--engine auto] [--calls 10000] [--callers 16] [--setting CLUSTER_NAME=VALUE]

Six documents a call, of lengths and words of their own; the cache of answers is off, so that all are computed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import psutil

from benchmarks.load import drive_groups, request_bytes
from benchmarks.processes import Memory
from benchmarks.rivals.ours import ENGINES, Ours
from benchmarks.workloads import RERANK, Texts, candidates, rerank_body

DOCUMENTS = 6
#: Calls between two looks.
STRETCH = 1000
#: What a stretch may take.
STRETCH_S = 600.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=list(ENGINES), default="auto")
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--setting", action="append", default=[], metavar="CLUSTER_NAME=VALUE")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    server = Ours(asked.engine, dict(one.split("=", 1) for one in asked.setting))
    texts = Texts(asked.seed)
    with (
        tempfile.TemporaryDirectory() as folder,
        server.started(RERANK, Path(folder), Path(folder)) as running,
    ):
        url = running.url + running.rerank_path
        worker = next(pid for pid in running.pids if psutil.Process(pid).cmdline()[0].startswith("ray::WorkerActor"))
        print(
            f"engine {running.engine}\n| calls | calls/s | failed | worker, MB | cluster, MB |\n|---|---|---|---|---|"
        )
        done = 0
        while done < asked.calls:
            each = min(STRETCH, asked.calls - done) // asked.callers + 1
            requests = [
                [request_bytes(url, rerank_body(running.model, candidates(texts, DOCUMENTS))) for _ in range(each)]
                for _ in range(asked.callers)
            ]
            load = drive_groups(url, {"": requests}, STRETCH_S, each)[""]
            done += len(requests) * each
            held = [Memory(pids).total_bytes() / 1e6 for pids in ([worker], running.pids)]
            print(f"| {done} | {load.requests_per_s:.0f} | {load.failed} | {held[0]:.0f} | {held[1]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
