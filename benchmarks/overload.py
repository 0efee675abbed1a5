"""Many callers of a little each, whom nobody may refuse, and ten times what can be done, which is refused at once.

python -m benchmarks.overload [--engine torch] [--seconds 20] [--callers 160]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.embedding import overload
from benchmarks.embedding_tables import overload_table
from benchmarks.load import drive_groups, request_bytes
from benchmarks.rivals.ours import ENGINES, Ours
from benchmarks.rivals.server import Running
from benchmarks.workloads import EMBEDDING, Task, Texts, embedding_body, short


def bulk(running: Running, callers: int, seconds: float) -> str:
    """Eight short texts in each request, the next as soon as the last was answered."""
    texts = Texts(1)
    url = running.url + running.embed_path
    lists = [[request_bytes(url, eight(running, texts)) for _ in range(20)] for _ in range(callers)]
    drive_groups(url, {"": lists[:8]}, 2.0, 3)
    load = drive_groups(url, {"": lists}, seconds)[""]
    told = f"{load.requests_per_s:.1f} requests/s, p50 {load.p50_ms:.0f} ms, p99 {load.p99_ms:.0f} ms"
    return f"{callers} callers: {told}, {load.failed} refused or failed {load.first_failure[:100]!r}"


def eight(running: Running, texts: Texts) -> bytes:
    tasks = [short(texts) for _ in range(8)]
    together = Task([task.texts[0] for task in tasks], sum(task.tokens for task in tasks))
    return embedding_body(running.model, together, running.encoding_format)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="torch", choices=ENGINES)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--callers", type=int, default=160)
    asked = parser.parse_args()
    server = Ours(asked.engine, {})
    with tempfile.TemporaryDirectory() as folder, server.started(EMBEDDING, Path(folder), Path(folder)) as running:
        print(bulk(running, asked.callers, asked.seconds), flush=True)
        print(overload_table([overload(server, running, 1, min(asked.seconds, 5.0))]), flush=True)


if __name__ == "__main__":
    main()
