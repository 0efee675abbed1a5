"""Shows a launch under way: bars on a terminal, a line now and then elsewhere; always on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from cluster.cli.output import size
from cluster.client import Client
from cluster.spec import ModelStatus, WorkerState

Show = Callable[[ModelStatus], None]


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
    with _bars() if sys.stderr.isatty() else _lines() as show:
        return client.wait_until_ready(uid, generation, timeout, show)


@contextmanager
def _bars() -> Iterator[Show]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[label]}  {task.fields[doing]}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[size]}", markup=False),
        TimeElapsedColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:

        def show(status: ModelStatus) -> None:
            rows = {row.label: row for row in rows_of(status)}
            for label in tasks.keys() - rows.keys():
                bars.remove_task(tasks.pop(label))
            for label, row in rows.items():
                if label not in tasks:
                    tasks[label] = bars.add_task("", total=1.0, label=label, doing="", size="")
                bars.update(tasks[label], completed=row.fraction, doing=row.doing, size=row.size)

        yield show


@contextmanager
def _lines() -> Iterator[Show]:
    shown: dict[str, tuple[str, int]] = {}

    def show(status: ModelStatus) -> None:
        for row in rows_of(status):
            step = (row.doing, int(row.fraction * 10))
            if shown.get(row.label) != step:
                shown[row.label] = step
                details = f"{row.fraction:.0%}" + (f", {row.size}" if row.size else "")
                click.echo(f"{row.label}: {row.doing} ({details})", err=True)

    yield show
