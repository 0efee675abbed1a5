"""What the control plane costs as models and nodes become more, with workers that exist only on paper.

    python -m benchmarks.growth [--models 10,100,1000,2000,5000] [--launches 300] [--json]

Every node has 8 cards, every model one replica on 0.49 of a card, and all are READY; a real supervisor plans, publishes
and writes to a real store. A row is a number of models; below the table stands the exponent of each column over the
last two rows: 1 is a straight line.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import math
import pickle
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from cluster.catalog.entry import Source
from cluster.control.placement import Placement
from cluster.control.platform import Weighed
from cluster.control.sqlite_store import SqliteStore
from cluster.control.supervisor import Supervisor
from cluster.launch import Wanted
from cluster.settings import Settings
from cluster.status import Claim, LoadProgress, Memory, Node, Report, WorkerName
from tests.make import make_node, make_wanted

CARDS = 8
SHARE = 0.49
#: How many models fit on a node at that share.
PER_NODE = CARDS * int(1 / SHARE)
#: Each figure is the median of so many.
TIMES = 5


class Paper:
    """A worker that is READY at once and then has nothing to tell."""

    def __init__(self, name: WorkerName, wanted: Wanted, claim: Claim) -> None:
        self.name, self.wanted, self.claim = name, wanted, claim
        self.remote = str(name)
        self._where = ("", "")
        self._started = asyncio.Event()

    async def describe(self, *, timeout_s: float) -> tuple[Wanted, Claim, Report]:
        return self.wanted, self.claim, self.told()

    def told(self) -> Report:
        node_id, node_ip = self._where
        return Report("ready", LoadProgress("ready", 1.0), node_id=node_id, node_ip=node_ip, pid=1)

    async def start(self, epoch: int, where: tuple[str, str], threads: int, *, timeout_s: float) -> None:
        self._where = where
        self._started.set()

    async def report(self, epoch: int, version: int, wait_s: float, *, timeout_s: float) -> tuple[int, Report]:
        await self._started.wait()
        if version == 1:
            await asyncio.sleep(wait_s)
        return 1, self.told()

    async def set_threads(self, epoch: int, threads: int, *, timeout_s: float) -> None: ...

    async def drain(self, epoch: int, *, timeout_s: float) -> None: ...

    async def logs(self, lines: int, *, timeout_s: float) -> list[str]:
        return []

    async def overdue(self, timeout_s: float) -> Sequence[str]:
        return []

    async def whereabouts(self) -> tuple[str, str, int]:
        return (*self._where, 1)

    async def probe(self, timeout_s: float) -> float:
        return 0.001

    def kill(self) -> None: ...


class Machines:
    """Nodes that are names."""

    def __init__(self, count: int) -> None:
        self.all = [make_node(f"n{number}", gpus=CARDS, cpus=96, memory_gib=900) for number in range(count)]

    async def nodes(self) -> Sequence[Node]:
        return self.all

    async def start(self, name: WorkerName, wanted: Wanted, placement: Placement) -> Paper:
        return Paper(name, wanted, placement.claim)

    async def find(self) -> Mapping[WorkerName, Paper]:
        return {}

    async def look_for(self, node_id: str, source: Source) -> None: ...

    async def weigh(self, node_id: str, wanted: Wanted) -> Weighed:
        return Weighed(wanted)

    async def end_process(self, node_id: str, pid: int) -> bool:
        return True

    async def stand_back(self) -> None: ...

    def memory(self) -> tuple[str, Memory] | None:
        return None


def supervisor(nodes: int) -> Supervisor:
    store = SqliteStore(Path(mkdtemp()) / "cluster.db")
    # Its loop is turned by hand here.
    settings = Settings(tick_s=3600, probe_s=3600)
    suffixes = map("{:08x}".format, itertools.count())
    return Supervisor(store, Machines(nodes), settings, new_suffix=lambda: next(suffixes))


def model(number: int) -> Wanted:
    return make_wanted(f"model-{number:05}", n_gpu=SHARE)


def seconds(work: Callable[[], object], times: int = TIMES) -> float:
    durations = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        durations.append(time.perf_counter() - started)
    return statistics.median(durations)


async def seconds_of(work: Callable[[], Awaitable[object]], times: int = TIMES) -> float:
    durations = []
    for _ in range(times):
        started = time.perf_counter()
        await work()
        durations.append(time.perf_counter() - started)
    return statistics.median(durations)


async def grown(models: int) -> dict[str, float]:
    """The figures of a cluster of so many models, in milliseconds and kilobytes."""
    nodes = math.ceil((models + 1) / PER_NODE)
    it = supervisor(nodes)
    fleet, publisher = it._fleet, it._publisher
    it._recovered.set()
    fleet.see_nodes(it._platform.all, 0.0)  # type: ignore[attr-defined]
    for number in range(models):
        fleet.want(model(number))
    figures = {"nodes": float(nodes), "cold start, planned": seconds(lambda: fleet.plan(time.monotonic()), 1)}
    await it._tick()
    await asyncio.sleep(0)
    while any(worker.state != "READY" for worker in fleet.workers.values()):
        await asyncio.sleep(0.05)
    await it._tick()
    figures["tick, nothing new"] = await seconds_of(it._tick)
    numbers = itertools.count()

    async def tick_after_news() -> None:
        worker = next(iter(fleet.workers.values()))
        progress = LoadProgress("ready", 1.0, done_bytes=next(numbers))
        report = Report("ready", progress, node_id=worker.node, node_ip=worker.node, pid=1)
        fleet.see_report(str(worker), report, time.monotonic())
        await it._tick()

    figures["tick, one new"] = await seconds_of(tick_after_news)

    async def launch() -> None:
        """One more, and gone again: the next finds as many as this one."""
        wanted = model(models)
        await it.launch(wanted, True)
        await it.terminate(wanted.uid)

    figures["launch, terminate"] = await seconds_of(launch)
    snapshot, statuses = publisher.snapshots.value, await it.all_statuses()
    figures["list"] = seconds(lambda: pickle.dumps(statuses))
    figures["metrics"] = await seconds_of(lambda: it.metrics("ingress", b""))
    figures = {name: value if name == "nodes" else value * 1000 for name, value in figures.items()}
    figures["whole table, kB"] = len(pickle.dumps(snapshot)) / 1000
    await it.stop()
    return figures


async def launched_in_turn(count: int) -> float:
    """Seconds for so many launches, the supervisor's loop at work as in a cluster."""
    it = supervisor(math.ceil(count / PER_NODE))
    it._settings.__dict__["tick_s"] = 1.0
    it.begin()
    started = time.perf_counter()
    for number in range(count):
        await it.launch(model(number), True)
    duration = time.perf_counter() - started
    await it.stop()
    return duration


def exponent(before: Mapping[str, float], after: Mapping[str, float], name: str, sizes: Sequence[int]) -> float:
    return math.log(after[name] / before[name]) / math.log(sizes[1] / sizes[0])


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--models", default="10,100,1000,2000,5000")
    words.add_argument("--launches", type=int, default=300)
    words.add_argument("--json", action="store_true")
    arguments = words.parse_args()
    logging.disable(logging.ERROR)
    sizes = [int(size) for size in arguments.models.split(",")]
    rows: list[dict[str, float]] = []
    for size in sizes:
        rows.append(asyncio.run(grown(size)))
        print(f"{size} models measured", file=sys.stderr)
    launches = [asyncio.run(launched_in_turn(count)) for count in (arguments.launches // 2, arguments.launches)]
    if arguments.json:
        answer: dict[str, Any] = {"models": dict(zip(sizes, rows, strict=True)), "launches_s": launches}
        print(json.dumps(answer))
        return
    names = list(rows[0])
    print(
        "| models | " + " | ".join(name if "kB" in name or name == "nodes" else f"{name}, ms" for name in names) + " |"
    )
    print("|" + "---|" * (len(names) + 1))
    for size, row in zip(sizes, rows, strict=True):
        print(f"| {size} | " + " | ".join(f"{row[name]:.4g}" for name in names) + " |")
    if len(rows) > 1:
        last = [f"{exponent(rows[-2], rows[-1], name, sizes[-2:]):.2f}" for name in names]
        print("| exponent | " + " | ".join(last) + " |")
    half, whole = launches
    print(
        f"\n{arguments.launches} launches in turn: {whole:.1f} s, of half as many {half:.1f} s, "
        f"exponent {math.log(whole / half, 2):.2f}"
    )


if __name__ == "__main__":
    main()
