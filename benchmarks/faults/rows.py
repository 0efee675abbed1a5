"""The rows of the table: what is broken, what callers notice of it, and whether that is what is promised."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import psutil

from cluster.status import ModelState
from tests.faults.traffic import Traffic, traffic
from tests.live import LiveCluster, until

#: A row that takes longer counts as broken.
ROW_S = 240


@dataclass
class Outcome:
    """The result of a row. `seconds` is the time until everything was as before."""

    ok: int = 0
    failed: int = 0
    held: int = 0
    seconds: float | None = None
    note: str = ""

    def count(self, seen: Traffic) -> None:
        self.ok += seen.ok
        self.failed += len(seen.failures)
        self.held += seen.held
        if seen.failures:
            self.say(f"first failure: {seen.failures[0][:160]}")

    def say(self, text: str) -> None:
        self.note = f"{self.note}; {text}" if self.note else text


class Broken(AssertionError):
    """What this row promises did not happen."""


@dataclass(frozen=True)
class Row:
    key: str
    fault: str
    run: Callable[[Bench, Outcome], None] | None
    #: Why it cannot be run, where it cannot.
    why_not: str = ""


#: In the order of the table; keys are numbers of faults, and `a` with a number of attacks.
ROWS: dict[str, Row] = {}


def row(key: int | str, fault: str) -> Callable[[Callable[[Bench, Outcome], None]], Callable[[Bench, Outcome], None]]:
    def add(run: Callable[[Bench, Outcome], None]) -> Callable[[Bench, Outcome], None]:
        ROWS[str(key)] = Row(str(key), fault, run)
        return run

    return add


def not_applicable(key: int | str, fault: str, why: str) -> None:
    ROWS[str(key)] = Row(str(key), fault, None, why)


def must(holds: object, otherwise: str) -> None:
    if not holds:
        raise Broken(otherwise)


@dataclass
class Bench:
    """The cluster under test, and what the rows do with it."""

    folder: Path = field(default_factory=lambda: Path(mkdtemp(prefix="faults-")))
    _shared: LiveCluster | None = None

    def renew(self) -> None:
        """Ends the shared cluster if it no longer answers after the last row, so that the next row starts another."""
        if self._shared is not None and not self._answers(self._shared):
            self.close()

    @property
    def cluster(self) -> LiveCluster:
        """The cluster with default settings that rows share."""
        if self._shared is None:
            self._shared = LiveCluster(Path(mkdtemp(dir=self.folder)))
            self._shared.up()
        return self._shared

    @contextmanager
    def own(self, *words: str, home: Path | None = None, **variables: str) -> Iterator[LiveCluster]:
        """A cluster for one row only, which needs other settings or does what later rows would not survive."""
        self.close()
        cluster = LiveCluster(home or Path(mkdtemp(dir=self.folder)), **variables)
        try:
            cluster.up(*words)
            yield cluster
        finally:
            self._end(cluster)

    def close(self) -> None:
        if self._shared is not None:
            self._end(self._shared)
            self._shared = None

    def tidy(self) -> str:
        """Terminates every model; returns what could not be terminated."""
        if self._shared is None:
            return ""
        try:
            self._shared.terminate_all()
        except Exception as error:
            text = f"left behind: {error}"
            self.close()
            return text
        return ""

    def _end(self, cluster: LiveCluster) -> None:
        with suppress(Exception):
            cluster.down()
        with suppress(Exception):
            cluster.kill_everything()

    def _answers(self, cluster: LiveCluster) -> bool:
        with suppress(Exception):
            return cluster.get("/health").status_code == 200
        return False

    # --- what rows do

    def launch(self, uid: str, cluster: LiveCluster | None = None, **fields: Any) -> str:
        with (cluster or self.cluster).client() as client:
            return client.launch_model(**{"model_name": "echo", "model_type": "echo", "model_uid": uid, **fields})

    def submit(self, uid: str, **fields: Any) -> None:
        """Launches without waiting until the model is READY."""
        body = {"model_name": "echo", "model_type": "echo", "model_uid": uid, **fields}
        self.cluster.post("/v1/models?wait_ready=false", body).raise_for_status()

    def infer(self, uid: str, *items: Any, timeout: float = 60) -> Any:
        return self.cluster.post("/v1/infer", {"model": uid, "items": list(items)}, timeout=timeout)

    def state(self, uid: str) -> ModelState | None:
        with suppress(Exception), self.cluster.client() as client:
            return client.status(uid).state
        return None

    def events(self, uid: str, cluster: LiveCluster | None = None) -> str:
        with (cluster or self.cluster).client() as client:
            return "\n".join(event["event_content"] for event in client.events(uid))

    @contextmanager
    def traffic(self, uid: str, outcome: Outcome, callers: int = 16, cluster: LiveCluster | None = None) -> Any:
        with traffic((cluster or self.cluster).url, uid, callers, pause_s=0) as seen:
            yield seen
        outcome.count(seen)
        must(seen.ok, "nothing was answered")

    def back(self, outcome: Outcome, what: Callable[[], object], *, within: float, since: float, why: str = "") -> None:
        """Waits until `what` holds, and records the seconds since the fault."""
        until(what, within=within, why=why)
        outcome.seconds = time.monotonic() - since


def kill(pid: int, number: int = signal.SIGKILL) -> float:
    os.kill(pid, number)
    return time.monotonic()


def resident(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


@contextmanager
def alarm(seconds: int) -> Iterator[None]:
    def ring(number: int, frame: object) -> None:
        raise Broken(f"not over after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
