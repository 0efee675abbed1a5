"""How near the served cluster comes to the bare forward pass: the same texts, engine and cores, no HTTP, no queue.

    python -m benchmarks.limit [--engines torch,torch-bf16,onnx-int8] [--seconds 10]

Bare: the pipeline of a worker in a process of its own, batches made beforehand, in as many threads as the worker has,
or in one that has all cores, whichever does more; measured before and after the served one, the mean of both.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil

from benchmarks.embedding import measure, warm_up
from benchmarks.rivals.ours import ENGINES, Ours
from benchmarks.workloads import EMBEDDING, Workload, workloads
from cluster.catalog.catalog import Catalog
from cluster.weights.locate import locate
from cluster.worker.family import Setup


def load_b(seed: int) -> Workload:
    return next(workload for workload in workloads(seed) if workload.letter == "b")


def bare(engine: str, seed: int, seconds: float) -> float:
    """Tokens per second."""
    from deployments.text.embedding.sentence_transformers import SentenceTransformers

    entry = Catalog.builtin().find("all-MiniLM-L6-v2")
    family = SentenceTransformers()
    with tempfile.TemporaryDirectory() as home:
        folder = locate(entry.sources[0], home=Path(home))
        threads = psutil.cpu_count(logical=False) or 1
        options = family.Options()
        family.load(Setup(entry, entry.sources[0], options, folder, "cpu", threads, engine=engine, home=Path(home)))
        tasks = [task for lists in load_b(seed).groups.values() for tasks in lists for task in tasks]
        texts = family.prepare("embed", [text for task in tasks for text in task.texts], {}).values
        batches = batched(texts, family.pace.batch_tokens or 512, family.pace.pads)
        return max(rate(family, batches, count, seconds) for count in {family.pace.parallel, 1})


def batched(texts: Sequence[Any], most: int, pads: bool) -> list[list[Any]]:
    """Full batches: of texts of one length where a batch is padded, so that nothing is."""
    batches: list[list[Any]] = [[]]
    for text in sorted(texts, key=len) if pads else texts:
        last = batches[-1]
        is_full = sum(map(len, last)) + len(text) > most or (pads and bool(last) and len(last[0]) != len(text))
        if last and is_full:
            batches.append([])
        batches[-1].append(text)
    return batches


def rate(family: Any, batches: Sequence[list[Any]], threads: int, seconds: float) -> float:
    for batch in batches[:20]:
        family.run(batch)
    endless = cycle(batches)
    started = time.perf_counter()
    deadline = started + seconds

    def work() -> int:
        done = 0
        while time.perf_counter() < deadline:
            batch = next(endless)
            family.run(batch)
            done += sum(map(len, batch))
        return done

    with ThreadPoolExecutor(threads) as pool:
        done = sum(one.result() for one in [pool.submit(work) for _ in range(threads)])
    return done / (time.perf_counter() - started)


def bare_apart(engine: str, seed: int, seconds: float) -> float:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        return apart.submit(bare, engine, seed, seconds).result()


def served(engine: str, seed: int, seconds: float) -> float:
    server = Ours(engine, {})
    with tempfile.TemporaryDirectory() as folder:
        environments = log = Path(folder)
        with server.started(EMBEDDING, environments, log) as running:
            workload = load_b(seed)
            warm_up(running, [workload])
            return measure(server, running, workload, seconds).tokens_per_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="torch,torch-bf16,onnx,onnx-int8,openvino-bf16,openvino-int8")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    print("| engine | bare, tokens/s | served, tokens/s | served / bare |\n|---|---|---|---|", flush=True)
    for engine in asked.engines.split(","):
        if engine not in ENGINES:
            raise SystemExit(f"There is no engine {engine}; there is {', '.join(ENGINES)}.")
        before = bare_apart(engine, asked.seed, asked.seconds)
        through = served(engine, asked.seed, asked.seconds)
        limit = (before + bare_apart(engine, asked.seed, asked.seconds)) / 2
        print(f"| {engine} | {limit:.0f} | {through:.0f} | {through / limit:.2f} |", flush=True)


if __name__ == "__main__":
    main()
