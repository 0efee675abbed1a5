"""Rows about requests: those that hang, that crash their worker, that come in floods, that callers abandon."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import httpx

from benchmarks.faults.rows import Bench, Outcome, must, resident, row
from cluster.status import ModelState
from tests.live import until

READY = ModelState.READY


@row(19, "a model that hangs in a request")
def hung(bench: Bench, outcome: Outcome) -> None:
    bench.launch("two", replica=2)
    before = bench.cluster.worker_pids("two")
    answers: list[object] = []

    def ask() -> None:
        try:
            answers.append(bench.infer("two", {"sleep": 10_000}, timeout=300).status_code)
        except httpx.HTTPError as error:
            answers.append(repr(error))

    threading.Thread(target=ask, daemon=True).start()
    with bench.traffic("two", outcome) as seen:
        hangs = time.monotonic()
        bench.back(
            outcome,
            lambda: len(now := bench.cluster.worker_pids("two")) == 2 and now != before,
            within=200,
            since=hangs,
        )
    outcome.say(f"longest call of others {seen.longest_s:.1f} s, whoever asked got {answers}")
    must(seen.longest_s < 15, f"others waited {seen.longest_s:.0f} s")


@row(20, "a request that crashes the worker, sent again and again")
def poison(bench: Bench, outcome: Outcome) -> None:
    bench.launch("poisoned", replica=3)
    statuses = []
    with bench.traffic("poisoned", outcome) as seen:
        first = time.monotonic()
        for _ in range(6):
            answer = bench.infer("poisoned", "x", {"crash": True}, timeout=90)
            statuses.append(answer.status_code)
        bench.back(outcome, lambda: len(bench.cluster.worker_pids("poisoned")) == 3, within=90, since=first)
    outcome.say(f"poison answered {statuses}, longest call of others {seen.longest_s:.1f} s")
    must(422 in statuses, "it is never refused as poison")
    must(statuses[-1] == 422, "it is not remembered")


@row(21, "one of two workers fails every call at once")
def fails_fast(bench: Bench, outcome: Outcome) -> None:
    bench.launch("two", replica=2)
    bench.infer("two", {"break": True})
    fails = time.monotonic()
    statuses = []
    while time.monotonic() - fails < 30:
        statuses += [bench.infer("two", "x").status_code for _ in range(20)]
        if statuses[-20:] == [200] * 20:
            break
    outcome.seconds = time.monotonic() - fails
    outcome.ok = statuses.count(200)
    outcome.failed = len(statuses) - outcome.ok
    must(outcome.ok > outcome.failed, f"{outcome.failed} of {len(statuses)} calls failed")


@row(22, "a client that reads one byte a second")
def slow_reader(bench: Bench, outcome: Outcome) -> None:
    bench.launch("big")
    text = "x" * 2_000_000
    body = b'{"model":"big","items":["' + text.encode() + b'"]}'
    head = (
        f"POST /v1/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    readers = []
    for _ in range(10):
        reader = socket.create_connection(("127.0.0.1", bench.cluster.port))
        reader.sendall(f"{head}\r\n\r\n".encode() + body)
        readers.append(reader)
    with bench.traffic("big", outcome) as seen:
        for _ in range(10):
            for reader in readers:
                reader.recv(1)
            time.sleep(1)
    for reader in readers:
        reader.close()
    outcome.say(f"longest call of others {seen.longest_s:.2f} s")
    must(seen.longest_s < 5, f"others waited {seen.longest_s:.0f} s")


@row(23, "clients that leave")
def leavers(bench: Bench, outcome: Outcome) -> None:
    bench.launch("left")

    def leave(number: int) -> None:
        try:
            httpx.post(f"{bench.cluster.url}/v1/infer", json={"model": "left", "items": [{"sleep": 1}]}, timeout=0.5)
        except httpx.TimeoutException:
            return

    with ThreadPoolExecutor(30) as pool:
        list(pool.map(leave, range(30)))
    started = time.monotonic()
    answer = bench.infer("left", "x")
    outcome.seconds = time.monotonic() - started
    outcome.ok = int(answer.status_code == 200)
    must(outcome.seconds < 5, f"what they left behind took {outcome.seconds:.0f} s")


@row(34, "ten times what can be done")
def overload(bench: Bench, outcome: Outcome) -> None:
    bench.launch("busy", run_seconds=0.02)
    ingress = max(bench.cluster.named("ray::ServeReplica"), key=lambda process: resident(process.pid))
    before = resident(ingress.pid)
    took: dict[int, list[float]] = {}
    deadline = time.monotonic() + 15

    def caller(number: int) -> None:
        with httpx.Client(timeout=60) as client:
            while time.monotonic() < deadline:
                started = time.monotonic()
                items = [{"sleep": 0.05}] * 8
                answer = client.post(f"{bench.cluster.url}/v1/infer", json={"model": "busy", "items": items})
                took.setdefault(answer.status_code, []).append(time.monotonic() - started)
                if answer.status_code == 429:
                    time.sleep(min(float(answer.headers["retry-after"]), 2))

    with ThreadPoolExecutor(160) as pool:
        list(pool.map(caller, range(160)))
    outcome.ok = len(took.get(200, ()))
    refused = took.get(429, [])
    strange = {status: len(times) for status, times in took.items() if status not in (200, 429)}
    outcome.failed = sum(strange.values())
    if refused:
        outcome.say(f"{len(refused)} refused, after {median(refused) * 1000:.0f} ms (median)")
    outcome.say(f"longest answer {max(took.get(200, [0])):.1f} s")
    grown = (resident(ingress.pid) - before) / 1e6
    outcome.say(f"ingress grew by {grown:.0f} MB")
    must(not strange, str(strange))
    must(not refused or median(refused) < 0.5, "refusals come late")
    must(grown < 300, "the ingress grows")
    until(lambda: bench.infer("busy", "x").status_code == 200, within=30)
