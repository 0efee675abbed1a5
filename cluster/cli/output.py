"""How commands print: tables for people, plain columns for pipes, JSON for programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence

import click
import orjson
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.status import CanaryStatus, ModelState, ModelStatus
from cluster.value import JsonObject

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_json(value: object) -> None:
    click.echo(orjson.dumps(value, default=_plain, option=orjson.OPT_INDENT_2).decode())


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no JSON")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Leaves empty columns out. Into a pipe nothing is cut or coloured."""
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    columns_shown = [i for i, name in enumerate(columns) if not cells or any(row[i] for row in cells)]
    lines = [[columns[i] for i in columns_shown], *([row[i] for i in columns_shown] for row in cells)]
    if sys.stdout.isatty():
        table = Table(*lines[0])
        for line in lines[1:]:
            table.add_row(*(Text(cell, _COLOURS.get(cell, "")) for cell in line))
        Console().print(table)
        return
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns_shown))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


_COLOURS = {
    ModelState.READY: "green",
    ModelState.DEGRADED: "yellow",
    ModelState.FAILED: "red",
    "ERROR": "red",
    "WARNING": "yellow",
}


def print_models(statuses: Sequence[ModelStatus]) -> None:
    print_table(
        ("UID", "TYPE", "NAME", "STATE", "READY", "WHERE", "MEMORY", "GPU MEMORY", "RESTARTS", "REASON"),
        [
            (
                status.uid,
                status.wanted.entry.type,
                status.wanted.spec.model_name,
                status.state,
                of_bounds(status.ready, status.replica, None if status.scale is None else status.scale.model_dump()),
                where(status),
                size(sum(worker.claim_bytes for worker in status.workers)),
                size(sum(worker.card_bytes for worker in status.workers)),
                status.restarts or "",
                _why(status),
            )
            for status in statuses
        ],
    )


def of_bounds(ready: int, replica: int, bounds: JsonObject | None) -> str:
    """`2/3`, or `2 of 0–4` where the load decides."""
    return f"{ready}/{replica}" if bounds is None else f"{ready} of {bounds['min']}–{bounds['max']}"


def of_canary(canary: CanaryStatus) -> str:
    return f"{canary.percent:g} % to generation {canary.generation}, a canary: {canary.why}"


def print_canary(canary: CanaryStatus) -> None:
    """Both versions beside each other, and what happens next."""
    versions = [
        (canary.generation, canary.percent, canary.new),
        (canary.old_generation, 100 - canary.percent, canary.old),
    ]
    print_table(
        ("GENERATION", "SHARE", "REQUESTS", "FAILED", "MEDIAN", "95 % WITHIN"),
        [
            (
                generation,
                f"{share:g} %",
                figures.requests,
                figures.failed,
                milliseconds(figures.median_s),
                milliseconds(figures.slowest_s),
            )
            for generation, share, figures in versions
        ],
    )
    click.echo(canary.next)


def milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.0f} ms"


def _why(status: ModelStatus) -> str:
    if status.state is not ModelState.READY:
        return status.reason or _activity(status)
    if status.canary is not None:
        return of_canary(status.canary)
    return "" if status.scale is None else status.scale.why


def _activity(status: ModelStatus) -> str:
    return f"{status.stage} {status.progress:.0%}" if status.stage else ""


def where(status: ModelStatus) -> str:
    """The nodes and cards of the workers: `n0:0,1 n1`."""
    cards_of: dict[str, set[int]] = {}
    for worker in status.workers:
        if worker.node:
            cards_of.setdefault(worker.node, set()).update(worker.cards)
    return " ".join(
        f"{node}:{','.join(map(str, sorted(cards)))}" if cards else node for node, cards in sorted(cards_of.items())
    )


def size(count: int | float | None) -> str:
    """`2.0 GiB`, in the units that the server's messages use; an empty text for 0 and None."""
    if not count:
        return ""
    power = min((int(count).bit_length() - 1) // 10, 4)
    return f"{count / 1024**power:.1f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}" if power else f"{int(count)} B"


def local_time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
