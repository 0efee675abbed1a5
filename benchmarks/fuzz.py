"""Bodies that nobody means, sent for minutes to every route of a cluster with real models, an honest caller beside.

    python -m benchmarks.fuzz [--minutes 10] [--callers 6] [--seed 1] [--setting CLUSTER_NAME=VALUE]

Printed: answers by status, every kind of 500, the longest time in which the ingress answered nobody, what became of
the honest caller, and what each process holds in the course of it. Between the random bodies come the large ones of
tests/attacks: lists without end, texts of megabytes, files that unpack, bodies that are never whole.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import itertools
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import psutil

from cluster.settings import Settings
from tests.attacks.standing_in import StandIn, opened
from tests.attacks.test_bounds import prose
from tests.attacks.test_bounds_of_bodies import COSTLY
from tests.attacks.test_bounds_of_documents import pdf_that_unpacks, tiff_of
from tests.deployments.ingress.test_routes import GOOD
from tests.fuzzing import Fuzzer, Sent, Target, answer_to, targets_of
from tests.live import LiveCluster
from tests.pipelines import saved

EMBEDDER, RERANKER, READER, PAINTER = "fuzz-embed", "fuzz-rerank", "fuzz-ocr", "fuzz-paint"
#: What the bodies of tests call the models that they are for.
STANDS_FOR = {"minilm": EMBEDDER, "letters": EMBEDDER, "reranker": RERANKER, "routes": EMBEDDER}
#: An honest request may take this long.
HONEST_S = 30.0
#: Above this the loop was stopped.
STALL_S = 0.25
JSON = {"content-type": "application/json"}


def routes() -> list[Target]:
    async def found() -> list[Target]:
        with tempfile.TemporaryDirectory() as folder:
            async with opened(Settings(home=Path(folder)), StandIn()) as app:
                return targets_of(app)

    return asyncio.run(found())


def good() -> dict[str, dict[str, Any]]:
    return {path: {**body, "model": STANDS_FOR[body["model"]]} for path, body in GOOD.items()}


def heavy() -> list[Sent]:
    """One by one what once stopped or filled a process."""
    text = prose(16_000_000)
    bodies = [("/v1/embeddings", body) for body in COSTLY.values()]
    bodies += [
        ("/v1/embeddings", orjson.dumps({"model": EMBEDDER, "input": text})),
        (
            "/v1/embeddings",
            orjson.dumps({"model": EMBEDDER, "input": [text[at : at + 8192] for at in range(0, 4_000_000, 8192)]}),
        ),
        ("/v1/embeddings", orjson.dumps({"model": text, "input": "a"})),
        ("/v1/rerank", orjson.dumps({"model": RERANKER, "query": text[:8_000_000], "documents": [text[:8_000_000]]})),
        ("/v1/rerank", orjson.dumps({"model": RERANKER, "query": "a", "documents": [text], "long_documents": "chunk"})),
        ("/tokenize", orjson.dumps({"model": EMBEDDER, "inputs": [text[:290_000]]})),
        ("/v1/embeddings", b'{"a":' + b"[" * 90_000_000 + b"}"),
    ]
    sent = [Sent("POST", path, body, JSON) for path, body in bodies]
    for name, file in (("a.pdf", pdf_that_unpacks(600)), ("a.tiff", tiff_of(100_000))):
        head = f'--cut\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode()
        more = f'\r\n--cut\r\nContent-Disposition: form-data; name="model"\r\n\r\n{READER}\r\n--cut--\r\n'.encode()
        sent.append(
            Sent("POST", "/v1/images/ocr", head + file + more, {"content-type": "multipart/form-data; boundary=cut"})
        )
    return sent


class Run:
    def __init__(self, cluster: LiveCluster, seconds: float, seed: int) -> None:
        self.cluster = cluster
        self.deadline = time.monotonic() + seconds
        self.statuses: Counter[int | str] = Counter()
        self.broken: dict[str, str] = {}
        self.honest_ms: list[float] = []
        self.honest_failures: Counter[int | str] = Counter()
        self.stalls: list[float] = []
        self._turn = threading.Lock()
        uids = (EMBEDDER, RERANKER, READER, PAINTER)
        targets = [target for target in routes() if "events" not in target.path]
        self._sent = iter(Fuzzer(targets, seed, uids, good(), most_bytes=2_000_000, path_uids=()))

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.deadline

    def connection(self, patience_s: float) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.cluster.port, timeout=patience_s)

    def fuzz(self) -> None:
        connection = self.connection(20.0)
        while self.goes_on:
            with self._turn:
                sent = next(self._sent)
            self.count(sent, *answer_to(connection, sent))

    def attack(self) -> None:
        connection = self.connection(120.0)
        for sent in itertools.cycle(heavy()):
            if not self.goes_on:
                return
            self.count(sent, *answer_to(connection, sent))
            time.sleep(1.0)

    def half_send(self) -> None:
        """Bodies that are never whole, some of them large, a few new ones all the time."""
        held: list[http.client.HTTPConnection] = []
        for number in itertools.count():
            if not self.goes_on:
                return
            connection = self.connection(5.0)
            try:
                connection.putrequest("POST", "/v1/embeddings")
                connection.putheader("content-length", "90000000")
                connection.endheaders()
                connection.send(b"x" * (30_000_000 if number % 20 == 0 else 50))
            except OSError:
                connection.close()
            held.append(connection)
            if len(held) > 400:
                held.pop(0).close()
            time.sleep(0.1)

    def ask_honestly(self) -> None:
        connection = self.connection(HONEST_S)
        for number in itertools.count():
            if not self.goes_on:
                return
            body = orjson.dumps({"model": EMBEDDER, "input": f"question number {number}"})
            began = time.perf_counter()
            status, _ = answer_to(connection, Sent("POST", "/v1/embeddings", body, JSON))
            self.honest_ms.append((time.perf_counter() - began) * 1000)
            if status != 200:
                self.honest_failures[status] += 1
            time.sleep(0.05)

    def scrape(self) -> None:
        while self.goes_on:
            time.sleep(2.0)
            # Of several ingresses each tells its own; a new connection may come to any.
            for line in _page(self.connection(HONEST_S)).splitlines():
                if line.startswith("cluster_loop_longest_stall_seconds{"):
                    self.stalls.append(float(line.split()[1]))

    def count(self, sent: Sent, status: int | str, told: bytes) -> None:
        self.statuses[status] += 1
        if status in (500, 501, 502):
            self.broken.setdefault(f"{sent.method} {sent.path.partition('?')[0]} {told[:80]!r}", f"{told!r} for {sent}")


def _page(connection: http.client.HTTPConnection) -> str:
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    return ""


def held_by(cluster: LiveCluster) -> dict[int, tuple[str, float]]:
    """Megabytes that are a process's own, by its id."""
    held = {}
    for process in cluster.processes():
        try:
            words = process.cmdline()
            name = words[0] if words[0].startswith("ray::") else " ".join(word.rpartition("/")[2] for word in words[:3])
            held[process.pid] = name[:50], process.memory_full_info().uss / 1e6
        except (psutil.Error, IndexError):
            continue
    return held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--callers", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--setting", action="append", default=[], metavar="CLUSTER_NAME=VALUE")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        variables = {"CLUSTER_LOG_LEVEL": "WARNING", **dict(one.split("=", 1) for one in asked.setting)}
        cluster = LiveCluster(Path(folder) / "home", **variables)
        try:
            cluster.up()
            with cluster.client() as client:
                client.launch_model("all-MiniLM-L6-v2", model_uid=EMBEDDER)
                client.launch_model("ce-tiny", model_uid=RERANKER)
                client.launch_model("ppocr-v6", model_uid=READER)
                pipeline = saved("sd15", Path(folder) / "sd15")
                client.launch_model("sd15", model_type="image", model_path=str(pipeline), model_uid=PAINTER)
            _report(cluster, asked)
        finally:
            cluster.down()


def _report(cluster: LiveCluster, asked: argparse.Namespace) -> None:
    seconds = asked.minutes * 60
    run = Run(cluster, seconds, asked.seed)
    work: list[Callable[[], None]] = [run.fuzz] * asked.callers
    work += [run.attack, run.half_send, run.ask_honestly, run.scrape]
    threads = [threading.Thread(target=one) for one in work]
    for thread in threads:
        thread.start()
    looks = []
    # The first sixth warms up.
    for part in (1 / 6, 1 / 2, 1.0):
        time.sleep(max(0.0, run.deadline - seconds * (1 - part) - time.monotonic()))
        looks.append(held_by(cluster))
    for thread in threads:
        thread.join()
    time.sleep(5.0)
    looks.append(held_by(cluster))
    statuses = dict(run.statuses.most_common())
    print(f"{run.statuses.total()} requests in {asked.minutes:g} minutes, seed {asked.seed}: {statuses}")
    print(
        f"longest stall of the loop {max(run.stalls, default=0):.3f} s; above {STALL_S} s in "
        f"{sum(stall > STALL_S for stall in run.stalls)} of {len(run.stalls)} looks"
    )
    honest = sorted(run.honest_ms)
    print(
        f"honest caller: {len(honest)} requests, {run.honest_failures.total()} failed {dict(run.honest_failures)}, "
        f"p50 {statistics.median(honest):.0f} ms, p99 {honest[int(len(honest) * 0.99)]:.0f} ms, "
        f"longest {honest[-1]:.0f} ms"
    )
    print("| process, own MB after | a sixth | half | all | 5 s later |\n|---|---|---|---|---|")
    for pid in dict.fromkeys(itertools.chain.from_iterable(looks)):
        name = next(look[pid][0] for look in looks if pid in look)
        print(f"| {name} {pid} | " + " | ".join(f"{look[pid][1]:.0f}" if pid in look else "" for look in looks) + " |")
    for kind, told in run.broken.items():
        print(f"BROKEN {kind}\n    {told[:1500]}")


if __name__ == "__main__":
    main()
