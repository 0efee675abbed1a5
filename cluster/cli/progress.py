"""Shows progress on standard error: bars on a terminal, otherwise a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from cluster.cli.output import size
from cluster.client.client import Client
from cluster.status import ModelStatus, WorkerState


@dataclass(frozen=True)
class ProgressRow:
    label: str
    activity: str
    fraction: float
    size: str = ""


def rows_of(status: ModelStatus) -> list[ProgressRow]:
    """One row per replica, or one for the model as long as it has no worker."""
    workers = sorted(
        (worker for worker in status.workers if worker.generation == status.generation),
        key=lambda worker: (worker.index, worker.created),
    )
    # Of several workers of one index, the newest is shown: the others were lost.
    newest = {worker.index: worker for worker in workers}
    if not newest:
        return [ProgressRow(status.uid, status.reason or status.stage or "waiting", status.progress)]
    rows = []
    for index, worker in newest.items():
        is_ready = worker.state is WorkerState.READY
        # The reason of a failure ends the command's output; that of a worker that was lost is shown only here.
        has_ended = worker.state in (WorkerState.READY, WorkerState.FAILED)
        activity = worker.state.lower() if has_ended else worker.reason or worker.stage or worker.state.lower()
        done = f"{size(worker.done_bytes) or '0 B'} of {size(worker.total_bytes)}" if worker.total_bytes else ""
        label = f"{status.uid} {index + 1}/{status.replica}" if status.replica > 1 else status.uid
        rows.append(ProgressRow(label, activity, 1.0 if is_ready else worker.progress, "" if is_ready else done))
    return rows


def follow(client: Client, uid: str, generation: int = 0, timeout: float | None = None) -> ModelStatus:
    """Waits until the model is READY and shows its progress."""
    with shown() as show:
        return client.wait_until_ready(uid, generation, timeout, lambda status: show(rows_of(status)))


def shown() -> ProgressBars | ProgressLines:
    return ProgressBars() if sys.stderr.isatty() else ProgressLines()


class ProgressBars:
    """A bar for each row; a row that is missing in the next call loses its bar."""

    def __init__(self) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.fields[label]}  {task.fields[activity]}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[size]}", markup=False),
            TimeElapsedColumn(),
        )
        self._bars = Progress(*columns, console=Console(stderr=True), transient=True)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, rows: Sequence[ProgressRow]) -> None:
        for label in self._tasks.keys() - {row.label for row in rows}:
            self._bars.remove_task(self._tasks.pop(label))
        for row in rows:
            if row.label not in self._tasks:
                self._tasks[row.label] = self._bars.add_task("", total=1.0, label=row.label, activity="", size="")
            self._bars.update(self._tasks[row.label], completed=row.fraction, activity=row.activity, size=row.size)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Takes the bars away while something else is written to the terminal."""
        self._bars.stop()
        yield
        self._bars.start()


class ProgressLines:
    """A line at each tenth of the way, and whenever the activity changes."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, rows: Sequence[ProgressRow]) -> None:
        for row in rows:
            step = (row.activity, int(row.fraction * 10))
            if self._last.get(row.label) != step:
                self._last[row.label] = step
                details = f"{row.fraction:.0%}" + (f", {row.size}" if row.size else "")
                click.echo(f"{row.label}: {row.activity} ({details})", err=True)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        yield
