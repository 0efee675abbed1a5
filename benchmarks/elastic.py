"""Models that share less memory than they need, and replicas that follow their load, on a real cluster.

    python -m benchmarks.elastic many [--models 50] [--room 8] [--minutes 10] [--rate 1] [--zipf 1.0]
    python -m benchmarks.elastic pair [--minutes 5]
    python -m benchmarks.elastic load [--callers 40]

`many`: models of one size, of which a part has room, and requests at random, most of them for few models. How many
requests found their model awake, beside the most that anybody could reach who knows the future (Belady). `pair`: two
models with room for one, asked in turns. `load`: one caller, many, and one again, on a model with up to four replicas.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import aiohttp
import psutil

from cluster import Client
from tests.live import LiveCluster

#: What one of the models claims on a CPU: a small cross-encoder in a process of its own.
CLAIM_BYTES = 425 * 10**6
#: Longest that a request may take.
PATIENCE_S = 120.0
WOKE, ROUSED = (f"Wakes up{depth}: somebody asks for it" for depth in ("", " from its doze"))


class Arrival(NamedTuple):
    at_s: float
    model: int


class Answer(NamedTuple):
    at_s: float
    took_s: float
    model: str
    failure: str = ""


@dataclass
class Watch:
    """What the node's models claim and what their processes take, while it is looked."""

    most_claimed: int = 0
    most_taken: int = 0
    most_awake: int = 0
    ready: list[tuple[float, int]] = field(default_factory=list)

    async def look(self, client: Client, every_s: float, began: float) -> None:
        while True:
            statuses = await asyncio.to_thread(client.statuses)
            workers = [worker for status in statuses for worker in status.workers]
            self.most_claimed = max(self.most_claimed, sum(worker.claim_bytes for worker in workers))
            self.most_awake = max(self.most_awake, len(workers))
            self.most_taken = max(self.most_taken, sum(_taken(worker.pid) for worker in workers if worker.pid))
            self.ready.append((time.monotonic() - began, sum(status.ready for status in statuses)))
            await asyncio.sleep(every_s)


def _taken(pid: int) -> int:
    """Of this process alone: libraries are shared by all."""
    try:
        return int(psutil.Process(pid).memory_full_info().uss)
    except psutil.Error:
        return 0


def arrivals(models: int, rate: float, seconds: float, zipf: float, seed: int) -> list[Arrival]:
    dice, weights = random.Random(seed), [1 / (number + 1) ** zipf for number in range(models)]
    at_s, coming = 0.0, list[Arrival]()
    while (at_s := at_s + dice.expovariate(rate)) < seconds:
        coming.append(Arrival(at_s, dice.choices(range(models), weights)[0]))
    return coming


def least_loads(coming: Sequence[Arrival], room: int) -> int:
    """How often a model has to be loaded by one who knows what comes: the one that is asked last gives way."""
    again: dict[int, int] = {}
    next_use = [0] * len(coming)
    for number in reversed(range(len(coming))):
        next_use[number] = again.get(coming[number].model, len(coming))
        again[coming[number].model] = number
    awake: dict[int, int] = {}
    loads = 0
    for number, arrival in enumerate(coming):
        if arrival.model not in awake:
            loads += 1
            if len(awake) == room:
                del awake[max(awake, key=lambda model: awake[model])]
        awake[arrival.model] = next_use[number]
    return loads


async def rerank(session: aiohttp.ClientSession, url: str, model: str, began: float) -> Answer:
    asked = time.monotonic()
    # A text of its own, so that no answer is a kept one.
    body = {"model": model, "query": f"rain {asked}", "documents": ["it rains", "salt"]}
    failure = ""
    try:
        async with session.post(f"{url}/v1/rerank", json=body) as answer:
            if answer.status != 200:
                failure = f"{answer.status} {(await answer.text())[:200]}"
    except (aiohttp.ClientError, TimeoutError) as error:
        failure = repr(error)
    return Answer(asked - began, time.monotonic() - asked, model, failure)


def session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(PATIENCE_S), connector=aiohttp.TCPConnector(limit=0, force_close=False)
    )


def cluster_with_room(folder: Path, room: int) -> LiveCluster:
    """Models may claim so much memory that just so many are awake at once."""
    probe = LiveCluster(folder / "probe", CLUSTER_MEMORY_FRACTION="1")
    try:
        probe.up()
        with probe.client() as client:
            (node,) = client.cluster_info()
    finally:
        probe.down()
    part = (room + 0.5) * CLAIM_BYTES / node["mem_total"]
    variables = {"CLUSTER_MAKE_ROOM": "true", "CLUSTER_MEMORY_FRACTION": f"{part:.4f}", "CLUSTER_LOG_LEVEL": "WARNING"}
    return LiveCluster(folder / "home", **variables)


def launch_asleep(client: Client, names: Sequence[str]) -> None:
    for name in names:
        client.launch_model("ce-tiny", "rerank", model_uid=name, asleep=True, wait_ready=False)


def wakes_of(client: Client, names: Sequence[str]) -> tuple[int, int]:
    """How often they were loaded, and how often one that dozed was only loaded again."""
    happened, before = Counter[str](), None
    while page := client.all_events(limit=1000, before=before):
        happened.update(event["event_content"] for event in page if event["model_uid"] in names)
        before = page[-1]["id"]
    return happened[WOKE], happened[ROUSED]


def quantile(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(int(part * len(values)), len(values) - 1)] if values else 0.0


async def many(live: LiveCluster, client: Client, asked: argparse.Namespace) -> None:
    names = [f"m{number:02}" for number in range(asked.models)]
    launch_asleep(client, names)
    coming = arrivals(asked.models, asked.rate, asked.minutes * 60, asked.zipf, asked.seed)
    began, watch = time.monotonic(), Watch()
    watching = asyncio.create_task(watch.look(client, 1.0, began))

    async def ask(arrival: Arrival) -> Answer:
        await asyncio.sleep(began + arrival.at_s - time.monotonic())
        return await rerank(calls, live.url, names[arrival.model], began)

    async with session() as calls:
        answers = await asyncio.gather(*map(ask, coming))
    watching.cancel()
    failed = [answer for answer in answers if answer.failure]
    loads, rouses = wakes_of(client, names)
    best = 1 - least_loads(coming, asked.room) / len(coming)
    awake, kept = 1 - (loads + rouses) / len(coming), 1 - loads / len(coming)
    times = [answer.took_s for answer in answers]
    print(f"{len(answers)} requests for {asked.models} models, room for {asked.room}: {len(failed)} failed")
    print(f"found awake {awake:.3f}, by one who knows the future {best:.3f}: {awake / best:.2f} of it")
    print(f"awake or dozing {kept:.3f}: {kept / best:.2f} of it; {loads} loads, {rouses} of models that dozed")
    print(
        f"seconds: p50 {quantile(times, 0.5):.3f}, p90 {quantile(times, 0.9):.2f}, p99 {quantile(times, 0.99):.2f}, "
        f"longest {max(times):.2f}"
    )
    bound = (asked.room + 0.5) * CLAIM_BYTES
    print(
        f"MB: claimed {watch.most_claimed / 1e6:.0f} at most, taken {watch.most_taken / 1e6:.0f}, "
        f"bound {bound / 1e6:.0f}; {watch.most_awake} processes at most"
    )
    for answer in failed[:5]:
        print(answer)


async def pair(live: LiveCluster, client: Client, asked: argparse.Namespace) -> None:
    names = ["a", "b"]
    launch_asleep(client, names)
    began = time.monotonic()

    async def caller(name: str) -> list[Answer]:
        answers = []
        while time.monotonic() - began < asked.minutes * 60:
            answers.append(await rerank(calls, live.url, name, began))
            await asyncio.sleep(0.05)
        return answers

    async with session() as calls:
        of_each = await asyncio.gather(*map(caller, names))
    took_s = time.monotonic() - began
    loads = sum(wakes_of(client, names))
    print(
        f"two models with room for one, one caller each, {took_s:.0f} s: {loads} loads, one in {took_s / loads:.1f} s"
    )
    for name, answers in zip(names, of_each, strict=True):
        times = [answer.took_s for answer in answers]
        failed = [answer for answer in answers if answer.failure]
        print(
            f"{name}: {len(answers)} answers, {len(failed)} failed; seconds: p50 {quantile(times, 0.5):.3f}, "
            f"p99 {quantile(times, 0.99):.2f}, longest {max(times):.2f}"
        )
        for answer in failed[:5]:
            print(answer)


async def load(live: LiveCluster, client: Client, asked: argparse.Namespace) -> None:
    replica = {"min": 1, "max": 4, "target_queue_s": 0.1}
    client.launch_model("narrow", model_uid="follows", run_seconds=0.05, replica=replica)
    began, watch, answers = time.monotonic(), Watch(), list[Answer]()
    watching = asyncio.create_task(watch.look(client, 0.25, began))
    url = f"{live.url}/v1/infer"

    async def caller(seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            started, failure = time.monotonic(), ""
            try:
                async with calls.post(url, json={"model": "follows", "items": [str(started)]}) as answer:
                    failure = "" if answer.status == 200 else f"{answer.status} {(await answer.text())[:200]}"
            except (aiohttp.ClientError, TimeoutError) as error:
                failure = repr(error)
            answers.append(Answer(started - began, time.monotonic() - started, "follows", failure))
            await asyncio.sleep(0.05)

    phases = []
    async with session() as calls:
        for callers, seconds in ((1, 10.0), (asked.callers, 60.0), (1, 60.0)):
            phases.append((callers, time.monotonic() - began, seconds))
            await asyncio.gather(*(caller(seconds) for _ in range(callers)))
    watching.cancel()
    failed = [answer for answer in answers if answer.failure]
    print(f"{len(answers)} answers, {len(failed)} failed\n\n| callers | from, s | replicas | p50, ms | p99, ms |")
    print("|---|---|---|---|---|")
    for callers, start, seconds in phases:
        for at in range(0, int(seconds), 5):
            times = [a.took_s * 1e3 for a in answers if start + at <= a.at_s < start + at + 5]
            ready = [count for at_s, count in watch.ready if start + at <= at_s < start + at + 5]
            if times and ready:
                p50, p99 = statistics.median(times), quantile(times, 0.99)
                print(f"| {callers} | {at} | {max(ready)} | {p50:.0f} | {p99:.0f} |")
    for answer in failed[:5]:
        print(answer)


SCENES = {"many": many, "pair": pair, "load": load}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", choices=SCENES)
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--room", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=float, default=1.0, help="requests a second")
    parser.add_argument("--zipf", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--callers", type=int, default=40)
    asked = parser.parse_args()
    room = {"many": asked.room, "pair": 1, "load": 40}[asked.scene]
    with tempfile.TemporaryDirectory() as folder:
        live = cluster_with_room(Path(folder), room)
        try:
            live.up()
            with live.client() as client:
                asyncio.run(SCENES[asked.scene](live, client, asked))
        finally:
            live.down()


if __name__ == "__main__":
    main()
