"""What the control plane costs as models and nodes become more, with workers that exist only on paper.

    python -m benchmarks.growth [--models 10,100,1000,5000,10000] [--launches 300] [--idle 20000] [--json]

Eight models for a node of 8 cards, each with one replica on 0.49 of a card, and all are READY; a real supervisor plans,
publishes and writes to a real store. A row is a number of models, its figures are time of the processor. Below the
table stands the exponent of each column from the row of 1,000 models, or the last but one, to the last: 1 is a straight
line. Then: launches one after another and all at once, tables published while one model backs off, and what idle
workers cost the supervisor, without Ray's part of each call.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import math
import pickle
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp

from cluster.catalog.entry import Source
from cluster.control.lifecycle import WorkerEvent
from cluster.control.placement import Placement
from cluster.control.platform import Lease, Weighed
from cluster.control.reconcile import NO_LOSS
from cluster.control.sqlite_store import SqliteStore
from cluster.control.supervisor import Supervisor
from cluster.control.views import routes_of
from cluster.control.watching import REPORT_WAIT_S
from cluster.launch import Wanted
from cluster.routes import Amendment, amended
from cluster.settings import Settings
from cluster.status import Claim, LoadProgress, Memory, Node, Report, WorkerName
from deployments.ingress.routing import RouteTable
from tests.make import make_node, make_wanted

CARDS = 8
SHARE = 0.49
#: Models for each node, half of what would fit.
PER_NODE = CARDS
#: Each figure is the shortest of so many: whatever else the machine does only makes them longer.
TIMES = 7


class Paper:
    """A worker that is READY at once and then has nothing to tell."""

    #: Of all of them together.
    calls = 0

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
        Paper.calls += 1
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
        Paper.calls += 1
        return 0.001

    def kill(self) -> None: ...


class Machines:
    """Nodes that are names."""

    def __init__(self, count: int) -> None:
        self.all = [make_node(f"n{number}", gpus=CARDS, cpus=96, memory_gib=900) for number in range(count)]

    async def nodes(self) -> Sequence[Node]:
        return self.all

    def keep_leases(self, leases: Mapping[str, Lease]) -> None:
        self.leases = dict(leases)

    async def may_start(self, wanted: Wanted, placement: Placement) -> bool:
        return True

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
        started = time.process_time()
        work()
        durations.append(time.process_time() - started)
    return min(durations)


async def seconds_of(work: Callable[[], Awaitable[object]], times: int = TIMES) -> float:
    durations = []
    for _ in range(times):
        started = time.process_time()
        await work()
        durations.append(time.process_time() - started)
    return min(durations)


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

    figures["routes of all"] = seconds(lambda: routes_of(fleet))
    version = publisher.snapshots.version
    ingress = publisher.snapshots.value
    table = RouteTable()
    table.update(ingress.version, ingress.models)
    told = b""

    async def launch() -> None:
        """One more, and gone again: the next finds as many as this one."""
        wanted = model(models)
        await it.launch(wanted, True)
        await it.terminate(wanted.uid)

    figures["launch, terminate"] = await seconds_of(launch)

    async def tell_an_ingress() -> None:
        nonlocal version, ingress, told
        wanted = model(models)
        fleet.want(wanted)
        publisher.publish()
        change = await it.changes(version, 0)
        assert isinstance(change, Amendment)
        told = pickle.dumps(change)
        version, ingress = change.version, amended(ingress, change)
        table.amend(change.version, change.models, change.gone)
        fleet.unwant(wanted.uid)

    await tell_an_ingress()
    figures["an ingress told of one"] = await seconds_of(tell_an_ingress)
    figures["status"] = await seconds_of(lambda: it.status("model-00000"))
    figures["list"] = await seconds_of(it.sent_statuses)
    figures["metrics"] = await seconds_of(lambda: it.metrics("ingress", b""))
    figures = {name: value if name == "nodes" else value * 1000 for name, value in figures.items()}
    figures["told, kB"] = len(told) / 1000
    figures["whole table, kB"] = len(pickle.dumps(publisher.snapshots.value)) / 1000
    await it.stop()
    return figures


async def launched(count: int, *, together: bool = False) -> tuple[float, float]:
    """Seconds for so many launches, and of them seconds of the processor; the supervisor's loop at work as in a
    cluster."""
    it = supervisor(math.ceil(count / PER_NODE))
    it._settings.__dict__["tick_s"] = 1.0
    it.begin()
    started, computed = time.perf_counter(), time.process_time()
    launches = [it.launch(model(number), True) for number in range(count)]
    if together:
        await asyncio.gather(*launches)
    else:
        for launch in launches:
            await launch
    duration = time.perf_counter() - started, time.process_time() - computed
    await it.stop()
    return duration


async def tables_while_one_backs_off(ticks: int = 10) -> int:
    it = supervisor(2)
    fleet = it._fleet
    it._recovered.set()
    fleet.see_nodes(it._platform.all, 0.0)  # type: ignore[attr-defined]
    fleet.want(model(0))
    await it._tick()
    for _ in range(4):
        fleet.losses["model-00000", 0] = fleet.losses.get(("model-00000", 0), NO_LOSS).again(time.monotonic(), 60.0)
    it._watch.see(next(iter(fleet.workers)), WorkerEvent.DIED, "gone")
    await it._tick()
    await it._tick()
    version = it._publisher.snapshots.version
    for _ in range(ticks):
        await it._tick()
        await asyncio.sleep(0.01)
    published = it._publisher.snapshots.version - version
    await it.stop()
    return published


async def idle_share(workers: int, within_s: float = 30.0) -> tuple[float, float]:
    """The part of a core that so many idle workers take, without what Ray takes for each call, and the calls to them in
    a second."""
    it = supervisor(math.ceil(workers / PER_NODE))
    it._settings.__dict__.update(tick_s=1.0, probe_s=Settings().probe_s)
    fleet = it._fleet
    for number in range(workers):
        fleet.want(model(number))
    it.begin()
    while len(fleet.workers) < workers or any(worker.state != "READY" for worker in fleet.workers.values()):
        await asyncio.sleep(1)
    await asyncio.sleep(2 * REPORT_WAIT_S)
    Paper.calls = 0
    started, computed = time.perf_counter(), time.process_time()
    await asyncio.sleep(within_s)
    waited = time.perf_counter() - started
    share = (time.process_time() - computed) / waited
    await it.stop()
    return share, Paper.calls / waited


def exponents(rows: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """From a thousand models, or the last size but one, to the last size."""
    sizes = list(rows)
    last = sizes[-1]
    first = 1000 if 1000 in sizes[:-1] else sizes[-2]
    factor = math.log(last / first)
    return {name: math.log(rows[last][name] / rows[first][name]) / factor for name in rows[last]}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--models", default="10,100,1000,5000,10000")
    words.add_argument("--launches", type=int, default=300)
    words.add_argument("--idle", type=int, default=20_000)
    words.add_argument("--json", action="store_true")
    arguments = words.parse_args()
    logging.disable(logging.ERROR)
    rows: dict[int, dict[str, float]] = {}
    for size in map(int, arguments.models.split(",")):
        rows[size] = asyncio.run(grown(size))
        print(f"{size} models measured", file=sys.stderr)
    half, whole = (asyncio.run(launched(count)) for count in (arguments.launches // 2, arguments.launches))
    together = asyncio.run(launched(arguments.launches, together=True))
    backing_off = asyncio.run(tables_while_one_backs_off())
    idle = asyncio.run(idle_share(arguments.idle)) if arguments.idle else (0.0, 0.0)
    if arguments.json:
        rest = {"launches_s": [half, whole], "together_s": together, "backing_off": backing_off, "idle": idle}
        print(json.dumps({"models": rows, **rest}))
        return
    names = list(next(iter(rows.values())))
    titles = (name if "kB" in name or name == "nodes" else f"{name}, ms" for name in names)
    print(f"| models | {' | '.join(titles)} |\n|{'---|' * (len(names) + 1)}")
    for size, row in rows.items():
        print(f"| {size} | " + " | ".join(f"{row[name]:.3g}" for name in names) + " |")
    if len(rows) > 1:
        print("| exponent | " + " | ".join(f"{exponent:.2f}" for exponent in exponents(rows).values()) + " |")
    print(
        f"\n{arguments.launches} launches in turn: {whole[0]:.1f} s, {whole[1]:.1f} s of them computed "
        f"(of half as many {half[1]:.1f} s); at once: {together[0]:.1f} s, {together[1]:.1f} s computed."
    )
    print(f"Tables published in 10 ticks while one model backs off: {backing_off}.")
    if arguments.idle:
        print(f"{arguments.idle} idle workers: {idle[0]:.0%} of a core, and {idle[1]:.0f} calls a second.")


if __name__ == "__main__":
    main()
