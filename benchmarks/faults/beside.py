"""The same faults, traffic and model on this project and on Xinference."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from tempfile import mkdtemp
from typing import Any, Protocol

import httpx
import psutil

from benchmarks.faults.rows import Broken, Outcome, alarm, kill
from benchmarks.rivals.xinference import Xinference
from benchmarks.workloads import EMBEDDING
from tests.faults.traffic import Echo, traffic
from tests.live import LiveCluster, is_alive

CALLERS = 8
#: How long a server is given to come back by itself.
PATIENCE_S = 100.0


class Embeddings(Echo):
    path = "/v1/embeddings"

    def body(self, model: str, text: str) -> dict[str, Any]:
        return {"model": model, "input": f"a text of nobody, number {text}"}

    def is_right(self, answer: Any, text: str) -> bool:
        return len(answer["data"][0]["embedding"]) == 384


class Subject(Protocol):
    """A server with one model, and the processes that matter."""

    name: str
    url: str
    model: str

    def model_process(self) -> psutil.Process: ...

    def supervisor(self) -> psutil.Process: ...


class Ours:
    name = "ours"

    def __init__(self, cluster: LiveCluster) -> None:
        self._cluster, self.url = cluster, cluster.url
        with cluster.client() as client:
            self.model = client.launch_model("all-MiniLM-L6-v2", model_type="embedding")

    def model_process(self) -> psutil.Process:
        return self._cluster.named("ray::WorkerActor")[0]

    def supervisor(self) -> psutil.Process:
        return self._cluster.named("ray::SupervisorActor")[0]


class Theirs:
    name = "Xinference 4.1"

    def __init__(self, pid: int, url: str, model: str) -> None:
        self._pid, self.url, self.model = pid, url, model

    def model_process(self) -> psutil.Process:
        """The process that has torch in memory. It is the largest: no other one is half as large."""
        family = psutil.Process(self._pid).children(recursive=True)
        return max(filter(is_alive, family), key=lambda process: process.memory_info().rss)

    def supervisor(self) -> psutil.Process:
        return psutil.Process(self._pid)


@contextmanager
def started(which: str, environments: Path) -> Iterator[Subject]:
    folder = Path(mkdtemp(prefix="beside-"))
    if which == "ours":
        cluster = LiveCluster(folder)
        cluster.up()
        try:
            yield Ours(cluster)
        finally:
            with suppress(Exception):
                cluster.down()
            with suppress(Exception):
                cluster.kill_everything()
        return
    server = Xinference()
    server.install(environments)
    with server.started(EMBEDDING, environments, folder / "log") as running:
        yield Theirs(running.pids[0], running.url, running.model)


def _answers(subject: Subject, timeout: float = 10) -> bool:
    with suppress(httpx.HTTPError, ValueError, KeyError, IndexError):
        ask = Embeddings()
        answer = httpx.post(subject.url + ask.path, json=ask.body(subject.model, "x"), timeout=timeout)
        return answer.status_code == 200 and ask.is_right(answer.json(), "x")
    return False


def _under_traffic(subject: Subject, outcome: Outcome, break_it: Callable[[], float]) -> None:
    """Breaks the server under traffic, and waits until it has answered five times in a row."""
    with traffic(subject.url, subject.model, CALLERS, Embeddings(), pause_s=0) as seen:
        broken = break_it()
        time.sleep(0.5)
        row_of = 0
        while time.monotonic() - broken < PATIENCE_S:
            row_of = row_of + 1 if _answers(subject) else 0
            if row_of == 1:
                outcome.seconds = time.monotonic() - broken
            if row_of >= 5:
                break
            time.sleep(0.2)
        else:
            outcome.seconds = None
            outcome.say(f"not back within {PATIENCE_S:.0f} s")
    outcome.count(seen)
    outcome.say(f"longest call {seen.longest_s:.1f} s")


def worker_killed(subject: Subject, outcome: Outcome) -> None:
    _under_traffic(subject, outcome, lambda: kill(subject.model_process().pid))


def worker_hung(subject: Subject, outcome: Outcome) -> None:
    process = subject.model_process()
    try:
        _under_traffic(subject, outcome, lambda: kill(process.pid, signal.SIGSTOP))
    finally:
        with suppress(psutil.Error):
            process.resume()


def supervisor_killed(subject: Subject, outcome: Outcome) -> None:
    _under_traffic(subject, outcome, lambda: kill(subject.supervisor().pid))


def poison(subject: Subject, outcome: Outcome) -> None:
    """One caller sends a request five times, and the model's process is killed each time. Others go on asking."""
    ask = Embeddings()
    # All texts differ: equal ones would be computed only once.
    body = {"model": subject.model, "input": [f"poison number {place} " * 60 for place in range(400)]}
    statuses: list[object] = []

    def send() -> None:
        try:
            statuses.append(httpx.post(subject.url + ask.path, json=body, timeout=60).status_code)
        except httpx.HTTPError as error:
            statuses.append(type(error).__name__)

    with traffic(subject.url, subject.model, CALLERS, ask, pause_s=0) as seen, ThreadPoolExecutor(1) as pool:
        first = time.monotonic()
        for _ in range(5):
            call = pool.submit(send)
            time.sleep(1.0)
            if not call.done():
                with suppress(psutil.Error, ValueError, IndexError):
                    kill(subject.model_process().pid)
            call.result()
            time.sleep(0.5)
        while time.monotonic() - first < PATIENCE_S and not _answers(subject):
            time.sleep(0.2)
        outcome.seconds = time.monotonic() - first if _answers(subject) else None
    outcome.count(seen)
    outcome.say(f"the poison got {statuses}; longest call of others {seen.longest_s:.1f} s")


def overload(subject: Subject, outcome: Outcome) -> None:
    """160 callers with 8 short texts each, for 15 s. Refused callers wait as long as Retry-After says."""
    ask = Embeddings()
    took: dict[object, list[float]] = {}
    deadline = time.monotonic() + 15

    def caller(number: int) -> None:
        with httpx.Client(timeout=60) as client:
            count = 0
            while time.monotonic() < deadline:
                count += 1
                texts = [f"short text {number} {count} {place}" for place in range(8)]
                started = time.monotonic()
                status: object
                pause = 0.0
                try:
                    answer = client.post(subject.url + ask.path, json={"model": subject.model, "input": texts})
                    status, pause = answer.status_code, float(answer.headers.get("retry-after", 0))
                except httpx.HTTPError as error:
                    status = type(error).__name__
                took.setdefault(status, []).append(time.monotonic() - started)
                time.sleep(min(pause, 5))

    with ThreadPoolExecutor(160) as pool:
        list(pool.map(caller, range(160)))
    answered = sorted(took.pop(200, []))
    outcome.ok = len(answered)
    refused = took.pop(429, [])
    outcome.failed = sum(map(len, took.values()))
    if answered:
        outcome.say(f"p50 {median(answered):.2f} s, longest {answered[-1]:.2f} s")
    outcome.say(f"{len(refused)} refused" + (f" after {median(refused) * 1000:.0f} ms" if refused else ""))
    if took:
        outcome.say(str({status: len(times) for status, times in took.items()}))
    outcome.seconds = 0.0 if _answers(subject, 30) else None


FAULTS: dict[str, tuple[str, Callable[[Subject, Outcome], None]]] = {
    "1": ("only worker, kill -9", worker_killed),
    "2": ("only worker stands still (SIGSTOP)", worker_hung),
    "3": ("supervisor, kill -9", supervisor_killed),
    "4": ("a request that kills the worker, sent five times", poison),
    "5": ("160 callers of 8 short texts", overload),
}


def compare(which: list[str], environments: Path, keys: list[str]) -> list[dict[str, object]]:
    results: list[dict[str, object]] = []
    print(f"| fault, {CALLERS} callers of one text | server | ok | failed | held | back after s | |")
    print("|---|---|---|---|---|---|---|")
    for key in keys or list(FAULTS):
        fault, break_it = FAULTS[key]
        for name in which:
            outcome = Outcome()
            with started(name, environments) as subject:
                try:
                    with alarm(int(PATIENCE_S) + 140):
                        break_it(subject, outcome)
                except (Broken, AssertionError, httpx.HTTPError, psutil.Error) as error:
                    outcome.say(f"{type(error).__name__}: {error}")
                verdict = "held" if outcome.seconds is not None and not outcome.failed else "broken"
                result = {"row": key, "fault": fault, "server": subject.name, "verdict": verdict, **vars(outcome)}
            results.append(result)
            seconds = "" if outcome.seconds is None else f"{outcome.seconds:.1f}"
            note = outcome.note.replace("|", "/")
            cells = [fault, subject.name, outcome.ok, outcome.failed, outcome.held, seconds, note]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    return results
