"""Callers come and go, and replicas follow them: how many there are, which requests fail, and how long each takes.

python -m benchmarks.scale

The model sleeps for 0.4 s for every four requests, so that cores limit nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

import httpx

from tests.live import LiveCluster

RUN_S = 0.4
#: When the callers have been there for so long, requests should take what they will take from then on.
SETTLED_S = 15.0


@dataclass
class Load:
    """Requests of some callers, each with when it began and how long it took."""

    url: str
    began: float
    answers: list[tuple[float, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    callers: int = 0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def caller(self, client: httpx.AsyncClient, number: int) -> None:
        """Asks again as soon as it is answered, as long as there are to be so many callers."""
        while self.callers > number:
            started = time.monotonic()
            try:
                answer = await client.post("/v1/infer", json={"model": "scales", "items": ["x"]})
                answer.raise_for_status()
            except httpx.HTTPError as error:
                self.failures.append(repr(error))
            self.answers.append((started - self.began, time.monotonic() - started))

    async def callers_until(self, client: httpx.AsyncClient, count: int, until: float) -> None:
        before, self.callers = self.callers, count
        self.tasks += [asyncio.create_task(self.caller(client, number)) for number in range(before, count)]
        await asyncio.sleep(self.began + until - time.monotonic())

    async def end(self) -> None:
        self.callers = 0
        await asyncio.gather(*self.tasks)

    def p99_ms(self, since: float, until: float) -> float:
        took = sorted(seconds for at, seconds in self.answers if since <= at < until)
        return 1000 * took[int(0.99 * (len(took) - 1))] if took else float("nan")

    def median_ms(self, since: float, until: float) -> float:
        return 1000 * statistics.median(seconds for at, seconds in self.answers if since <= at < until)


async def watch(client: httpx.AsyncClient, began: float, counts: list[tuple[float, int, int, float]]) -> None:
    while True:
        numbers = (await client.get("/v1/models/scales/scale")).json()
        row = (time.monotonic() - began, numbers["replica"], numbers["ready"], numbers["queue_s"])
        if not counts or counts[-1][1:3] != row[1:3]:
            counts.append(row)
            print(f"{row[0]:6.1f} s  {row[1]} wanted  {row[2]} READY  requests wait {row[3]:.2f} s", flush=True)
        await asyncio.sleep(0.25)


async def measure(url: str, alone_s: float, crowd_s: float, after_s: float) -> None:
    counts: list[tuple[float, int, int, float]] = []
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        load = Load(url, time.monotonic())
        watching = asyncio.create_task(watch(client, load.began, counts))
        crowd = alone_s + crowd_s
        await load.callers_until(client, 1, alone_s)
        print(f"{alone_s:6.1f} s  40 callers")
        await load.callers_until(client, 40, crowd)
        print(f"{crowd:6.1f} s  1 caller")
        await load.callers_until(client, 1, crowd + after_s)
        await load.end()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    print(f"\n{len(load.answers)} requests, {len(load.failures)} failed, replicas {_path(counts)}")
    spans: Sequence[tuple[str, float, float]] = (
        ("1 caller", 0.0, alone_s),
        (f"40 callers, first {SETTLED_S:.0f} s", alone_s, alone_s + SETTLED_S),
        (f"40 callers, from {SETTLED_S:.0f} s on", alone_s + SETTLED_S, crowd),
        ("the last half of that", alone_s + (SETTLED_S + crowd_s) / 2, crowd),
        ("1 caller again", crowd + 1, crowd + after_s),
    )
    for name, since, until in spans:
        print(f"{name:28} median {load.median_ms(since, until):6.0f} ms   p99 {load.p99_ms(since, until):6.0f} ms")


def _path(counts: Sequence[tuple[float, int, int, float]]) -> str:
    ready = [row[2] for row in counts]
    return " -> ".join(str(count) for place, count in enumerate(ready) if not place or count != ready[place - 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, nargs=3, default=(10.0, 40.0, 50.0), metavar="S")
    parser.add_argument("--scale-down-s", type=float, default=20.0)
    arguments = parser.parse_args()
    home = Path(mkdtemp(prefix="scale-"))
    cluster = LiveCluster(home, CLUSTER_SCALE_DOWN_S=str(arguments.scale_down_s))
    cluster.up()
    try:
        with cluster.client() as client:
            replica = {"min": 1, "max": 4, "target_queue_s": 0.3}
            client.launch_model("narrow", model_uid="scales", run_seconds=RUN_S, replica=replica)
        asyncio.run(measure(cluster.url, *arguments.seconds))
    finally:
        cluster.down()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
