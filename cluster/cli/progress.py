"""Shows what is under way: bars on a terminal, a line now and then elsewhere; always on standard error."""

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
class Row:
    label: str
    doing: str
    fraction: float
    size: str = ""


def rows_of(status: ModelStatus) -> list[Row]:
    """One row per replica; one for the model while it has none."""
    workers = sorted(
        (worker for worker in status.workers if worker.generation == status.generation),
        key=lambda worker: (worker.index, worker.created),
    )
    # An index that was lost and started again shows its newest worker.
    newest = {worker.index: worker for worker in workers}
    if not newest:
        return [Row(status.uid, status.reason or status.stage or "waiting", status.progress)]
    rows = []
    for index, worker in newest.items():
        is_ready = worker.state is WorkerState.READY
        # Why one failed is the command's last word; why one was lost and starts again is said nowhere else.
        has_ended = worker.state in (WorkerState.READY, WorkerState.FAILED)
        doing = worker.state.lower() if has_ended else worker.reason or worker.stage or worker.state.lower()
        done = f"{size(worker.done_bytes) or '0 B'} of {size(worker.total_bytes)}" if worker.total_bytes else ""
        label = f"{status.uid} {index + 1}/{status.replica}" if status.replica > 1 else status.uid
        rows.append(Row(label, doing, 1.0 if is_ready else worker.progress, "" if is_ready else done))
    return rows


def follow(client: Client, uid: str, generation: int = 0, timeout: float | None = None) -> ModelStatus:
    """Waits until the model is READY and shows how far it is."""
    with shown() as show:
        return client.wait_until_ready(uid, generation, timeout, lambda status: show(rows_of(status)))


def shown() -> Bars | Lines:
    return Bars() if sys.stderr.isatty() else Lines()


class Bars:
    """A bar for each row; one that is not there the next time is taken away."""

    def __init__(self) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.fields[label]}  {task.fields[doing]}", markup=False),
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

    def __call__(self, rows: Sequence[Row]) -> None:
        for label in self._tasks.keys() - {row.label for row in rows}:
            self._bars.remove_task(self._tasks.pop(label))
        for row in rows:
            if row.label not in self._tasks:
                self._tasks[row.label] = self._bars.add_task("", total=1.0, label=row.label, doing="", size="")
            self._bars.update(self._tasks[row.label], completed=row.fraction, doing=row.doing, size=row.size)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """For what else is to be written to the terminal."""
        self._bars.stop()
        yield
        self._bars.start()


class Lines:
    """A line for each tenth of the way, and whenever something else is done."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[str, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, rows: Sequence[Row]) -> None:
        for row in rows:
            step = (row.doing, int(row.fraction * 10))
            if self._said.get(row.label) != step:
                self._said[row.label] = step
                details = f"{row.fraction:.0%}" + (f", {row.size}" if row.size else "")
                click.echo(f"{row.label}: {row.doing} ({details})", err=True)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        yield
