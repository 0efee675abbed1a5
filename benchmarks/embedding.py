"""Embedding and rerank servers side by side: the same weights, texts, cores and load generator, HTTP included.

    python -m benchmarks.embedding [--only ours,infinity-torch] [--workloads a,b,c] [--seconds 10] [--rounds 3]

Each rival is installed from the package index into an environment of its own, once. A round starts every server in
turn, alone on the machine, with one model; the median round of each is shown. Texts come from the seed and the round.
"""

from __future__ import annotations

import argparse
import base64
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import psutil

from benchmarks.embedding_tables import Check, Overload, Row, median, overload_table, table
from benchmarks.load import arrive, drive_groups, percentile, request_bytes
from benchmarks.processes import Memory, Meter
from benchmarks.rivals import infinity
from benchmarks.rivals.libraries import Fastembed, SentenceTransformers
from benchmarks.rivals.ours import ENGINES, Ours
from benchmarks.rivals.server import Environment, Running, Server
from benchmarks.rivals.xinference import Xinference
from benchmarks.workloads import (
    EMBEDDING,
    MAX_TOKENS,
    RERANK,
    WEIGHTS,
    Task,
    Texts,
    Workload,
    candidates,
    documents,
    embedding_body,
    rerank_body,
    workloads,
)

HERE = Path(__file__).parent


# What a server is asked.


def measure(server: Server, running: Running, workload: Workload, seconds: float) -> Row:
    url, groups = _requests(running, workload)
    if workload.most is not None:
        seconds = 600.0
    with Meter(running.processes()) as meter:
        loads = drive_groups(url, groups, seconds, workload.most or 10**9)
    shown = loads[workload.measured]
    docs, tokens = 0, 0
    for name, lists in workload.groups.items():
        for tasks, answered in zip(lists, loads[name].answered, strict=True):
            done = [tasks[number % len(tasks)] for number in range(answered)]
            docs += sum(len(task.texts) for task in done)
            tokens += sum(task.tokens for task in done)
    took = max(load.seconds for load in loads.values())
    return Row(
        server.name,
        server.precision,
        workload.letter,
        shown.requests_per_s,
        docs / took,
        tokens / took,
        shown.p50_ms,
        shown.p99_ms,
        meter.cpu_seconds / max(tokens, 1) * 1000,
        meter.peak_bytes / 1e6,
        sum(load.failed for load in loads.values()),
        next((load.first_failure for load in loads.values() if load.first_failure), ""),
        shown.cpu_seconds / took,
        meter.own_cpu_seconds / took,
    )


def _requests(running: Running, workload: Workload) -> tuple[str, dict[str, list[list[bytes]]]]:
    url = running.url + (running.embed_path if workload.kind == EMBEDDING else running.rerank_path)
    body = _body_for(running)
    return url, {
        name: [[request_bytes(url, body(task)) for task in tasks] for tasks in lists]
        for name, lists in workload.groups.items()
    }


def _body_for(running: Running) -> Callable[[Task], bytes]:
    def body(task: Task) -> bytes:
        if task.query is not None:
            return rerank_body(running.model, task)
        return embedding_body(running.model, task, running.encoding_format)

    return body


def warm_up(running: Running, chosen: Iterable[Workload]) -> None:
    for workload in chosen:
        url, groups = _requests(running, workload)
        # Of large requests a few: a slow server takes seconds for each.
        is_large = len(workload.groups[workload.measured][0][0].texts) > 1
        few = {name: lists[:2] if is_large else lists for name, lists in groups.items()}
        drive_groups(url, few, 2.0, 1 if is_large else 20)


# What it must answer.


def _sample(seed: int) -> dict[str, Task]:
    texts = Texts(seed)
    return {EMBEDDING: documents(texts, 32), RERANK: candidates(texts, 32)}


def reference(sample: Mapping[str, Task]) -> dict[str, Any]:
    """By sentence-transformers in fp32, in a process that ends with it."""
    from sentence_transformers import CrossEncoder, SentenceTransformer

    arguments: dict[str, Any] = {"device": "cpu", "model_kwargs": {"dtype": "float32"}}
    embedder = SentenceTransformer(str(WEIGHTS[EMBEDDING]), **arguments)
    reranker = CrossEncoder(str(WEIGHTS[RERANK]), max_length=MAX_TOKENS[RERANK], **arguments)
    task = sample[RERANK]
    return {
        EMBEDDING: embedder.encode(list(sample[EMBEDDING].texts), normalize_embeddings=True),
        RERANK: reranker.predict([(task.query, text) for text in task.texts]),
    }


def check(server: Server, running: Running, kind: str, task: Task, expected: Any) -> Check:
    body = _body_for(running)(task)
    path = running.embed_path if kind == EMBEDDING else running.rerank_path
    answer = httpx.post(running.url + path, content=body, headers={"content-type": "application/json"}, timeout=120)
    if answer.status_code != 200:
        raise RuntimeError(f"It answered {answer.status_code}: {answer.text[:300]}")
    if kind == RERANK:
        found = {row["index"]: row["relevance_score"] for row in answer.json()["results"]}
        scores = np.array([found[position] for position in range(len(task.texts))])
        # The order is what counts: some servers give logits where others give probabilities.
        agreement = float(np.corrcoef(_ranks(scores), _ranks(np.asarray(expected)))[0, 1])
        return Check(server.name, kind, agreement, agreement, running.engine)
    rows = sorted(answer.json()["data"], key=lambda row: int(row["index"]))
    vectors = np.array([_vector(row["embedding"]) for row in rows])
    if vectors.shape != expected.shape:
        raise RuntimeError(f"It answered vectors of the shape {vectors.shape}, not {expected.shape}.")
    cosines = (vectors * expected).sum(1) / np.linalg.norm(vectors, axis=1)
    return Check(server.name, kind, float(cosines.mean()), float(cosines.min()), running.engine)


def _ranks(scores: Any) -> Any:
    return np.argsort(np.argsort(scores))


def _vector(given: str | list[float]) -> Any:
    return np.frombuffer(base64.b64decode(given), "<f4") if isinstance(given, str) else np.array(given, np.float32)


# Ten times what it can do.


def overload(server: Server, running: Running, seed: int, seconds: float) -> Overload:
    """Requests of eight documents, so that it is the model that is overloaded and not the load generator."""
    texts = Texts(seed)
    tasks = [documents(texts, 8) for _ in range(256)]
    workload = Workload("g", "", EMBEDDING, {"": [tasks[start::8] for start in range(8)]})
    url, groups = _requests(running, workload)
    alone = drive_groups(url, {"": groups[""][:1]}, seconds)[""]
    full = drive_groups(url, groups, seconds)[""]
    processes = running.processes()
    pids = [process.pid for process in processes]
    before = Memory(pids).total_bytes()
    offered = 10 * full.requests_per_s
    with Meter(processes) as meter:
        found = arrive(url, [request for requests in groups[""] for request in requests], offered, seconds)
    time.sleep(2)  # what was queued is answered; what it held goes back
    return Overload(
        server.name,
        full.requests_per_s,
        alone.p50_ms,
        alone.p99_ms,
        full.p50_ms,
        full.p99_ms,
        offered,
        len(found.accepted_ms),
        percentile(found.accepted_ms, 0.50),
        percentile(found.accepted_ms, 0.99),
        len(found.refused_ms),
        percentile(found.refused_ms, 0.50),
        percentile(found.refused_ms, 0.99),
        found.with_retry_after,
        found.failed,
        found.first_failure,
        before / 1e6,
        meter.peak_bytes / 1e6,
        Memory(pids).total_bytes() / 1e6,
    )


# The order of things.


@dataclass
class Findings:
    rows: list[Row]
    checks: list[Check]
    overloads: list[Overload]
    absent: dict[str, str]


def one_server(
    server: Server, kind: str, asked: argparse.Namespace, round_: int, logs: Path, findings: Findings
) -> None:
    seed = asked.seed + round_
    every = {workload.letter: workload for workload in workloads(seed)}
    chosen = [every[letter] for letter in asked.workloads if letter in every and every[letter].kind == kind]
    with_overload = "g" in asked.workloads and kind == EMBEDDING and server.is_ours and round_ == 0
    if not chosen and not with_overload:
        return
    began = time.monotonic()
    with server.started(kind, asked.environments, logs / f"{server.name}.log") as running:
        _say(f"{server.name}: {kind} model ready after {time.monotonic() - began:.1f} s {running.engine}")
        if round_ == 0:
            found = check(server, running, kind, asked.sample[kind], asked.expected[kind])
            findings.checks.append(found)
            word = "cosine" if kind == EMBEDDING else "rank correlation"
            _say(f"{server.name}: {word} to sentence-transformers {found.agreement:.5f}, least {found.least:.5f}")
        warm_up(running, [every[letter] for letter in ("ab" if kind == EMBEDDING else "e")])
        for workload in chosen:
            row = measure(server, running, workload, asked.seconds)
            findings.rows.append(row)
            _say(
                f"{server.name}: ({workload.letter}) {row.requests_per_s:.1f} requests/s, {row.docs_per_s:.0f} "
                f"docs/s, p50 {row.p50_ms:.1f} ms, p99 {row.p99_ms:.1f} ms, {row.peak_mb:.0f} MB, load generator "
                f"{row.generator_share:.0%} of a core" + (f", {row.failed} FAILED" if row.failed else "")
            )
            if row.first_failure:
                _say(f"    {row.first_failure[:200]!r}")
        if with_overload:
            findings.overloads.append(overload(server, running, seed, asked.seconds))


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def main() -> None:
    # So that what was started is stopped on that way out too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    asked = _asked()
    servers = _chosen(asked)
    print(
        f"{psutil.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}; "
        f"{asked.rounds} rounds of {asked.seconds:g} s, seed {asked.seed}"
    )
    asked.sample = _sample(asked.seed)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        asked.expected = apart.submit(reference, asked.sample).result()
    findings = Findings([], [], [], {})
    logs = Path(tempfile.mkdtemp(prefix="benchmark-logs-"))
    for server in servers:
        try:
            server.install(asked.environments)
        except Exception as error:  # one that cannot be had must not cost the figures of the others
            findings.absent[server.name] = str(error)
            _say(f"{server.name}: cannot be installed: {error}")
    for round_, server, kind in product(range(asked.rounds), servers, (EMBEDDING, RERANK)):
        what = f"{server.name}, {kind}"
        if server.name in findings.absent or what in findings.absent:
            continue
        try:
            one_server(server, kind, asked, round_, logs, findings)
        except Exception as error:  # nor one that falls over
            findings.absent[what] = f"{type(error).__name__}: {error}"
            _say(f"{what}: given up in round {round_ + 1}: {findings.absent[what]}")
    _report(asked, findings, logs)


def _report(asked: argparse.Namespace, findings: Findings, logs: Path) -> None:
    pairs = list(dict.fromkeys((row.server, row.workload) for row in findings.rows))
    rows = [median([row for row in findings.rows if (row.server, row.workload) == pair]) for pair in pairs]
    wrong = frozenset(one.server for one in findings.checks if not one.is_right)
    for workload in workloads(asked.seed):
        if any(row.workload == workload.letter for row in rows):
            print(table(workload, rows, wrong))
    if findings.overloads:
        print(overload_table(findings.overloads))
    print("\n| | vectors: mean and least cosine | reranking: rank correlation | engine |\n|---|---|---|---|")
    for name in dict.fromkeys(one.server for one in findings.checks):
        of = {one.kind: one for one in findings.checks if one.server == name}
        cosine = f"{of[EMBEDDING].agreement:.5f}, {of[EMBEDDING].least:.5f}" if EMBEDDING in of else ""
        order = f"{of[RERANK].agreement:.5f}" if RERANK in of else ""
        engines = ", ".join(dict.fromkeys(one.engine for one in of.values() if one.engine))
        print(f"| {name} | {cosine} | {order} | {engines} |")
    for name, why in findings.absent.items():
        print(f"\n{name} was given up: {why}")
    if rows:
        load, sampling = max(row.generator_share for row in rows), max(row.sampling_share for row in rows)
        print(f"\nOf one core the load generator took at most {load:.0%}, the sampling of memory {sampling:.0%}.")
        print(f"The servers' logs are in {logs}.")
    if asked.json or asked.chart:
        found = {
            "cores": psutil.cpu_count(),
            "seconds": asked.seconds,
            "seed": asked.seed,
            "rows": [asdict(row) for row in rows],
            "rounds": [asdict(row) for row in findings.rows],
            "checks": [asdict(one) for one in findings.checks],
            "overloads": [asdict(one) for one in findings.overloads],
            "absent": findings.absent,
        }
        figures = asked.json or logs / "figures.json"
        figures.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
        if asked.chart:
            draw(figures, asked.chart, asked.environments)


def draw(figures: Path, chart: Path, environments: Path) -> None:
    environment = Environment(environments / "chart", HERE / "requirements.txt", with_torch=False)
    environment.install()
    subprocess.run([str(environment.python), str(HERE / "chart.py"), str(figures), str(chart)], check=True)
    print(f"The chart is in {chart}.")


def _every_server(settings: Mapping[str, str]) -> list[Server]:
    ours = [Ours(engine, settings) for engine in ENGINES]
    return [*infinity.every(), Xinference(), SentenceTransformers(), Fastembed(), *ours]


def _chosen(asked: argparse.Namespace) -> list[Server]:
    every = _every_server(dict(pair.split("=", 1) for pair in asked.setting))
    if not asked.only:
        return every
    wanted = asked.only.split(",")
    chosen = [server for server in every if server.name in wanted or server.name.split("-")[0] in wanted]
    unknown = [name for name in wanted if not any(name in (s.name, s.name.split("-")[0]) for s in chosen)]
    if unknown:
        raise SystemExit(f"There is no {', '.join(unknown)}; there is {', '.join(server.name for server in every)}.")
    return chosen


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="servers, or the first words of their names, with commas between")
    parser.add_argument("--workloads", default="a,b,c,d,e,f,g", type=lambda given: given.replace(",", ""))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--environments", type=Path, default=Path("~/.cache/cluster-benchmarks"))
    parser.add_argument("--setting", action="append", default=[], help="CLUSTER_NAME=VALUE for ours; may be repeated")
    parser.add_argument("--json", type=Path, help="file for the figures of every round")
    parser.add_argument("--chart", type=Path, help="PNG; without it, a run of everything draws embedding.png here")
    asked = parser.parse_args()
    if asked.chart is None and not asked.only and asked.workloads == "abcdefg":
        asked.chart = HERE / "embedding.png"
    asked.environments = asked.environments.expanduser().absolute()
    return asked


if __name__ == "__main__":
    main()
