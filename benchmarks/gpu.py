"""Runs every family once on one card within eight minutes, and prints one table.

    python -m benchmarks.gpu [--device cuda|cpu] [--rows WORD,WORD] [--list] [--minutes 8]

Weights are random, so nothing is downloaded. Each row has a process of its own and a limit on its time; one that fails
says why and stops no other. Ends with 1 where any failed, and with 2 where time was up before all had run. `--device
cpu` runs the same rows small.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

#: What a row has measured: its load, how fast it was, how much of the card's arithmetic that is, the most that it took.
Cells = Mapping[str, str]
COLUMNS = ("load s", "speed", "of the bound", "peak GB", "note")
Outcome = Literal["ok", "failed", "not here"]
#: How long a process may take to end that is over its time.
END_S = 5.0
#: The limits are those of a card; a machine without one takes longer, small as its models are.
SLOWER_ON_CPU = 4


class NotHere(Exception):
    """This machine, or this installation, lacks what the row is about."""


@dataclass(frozen=True)
class Bench:
    """Where rows run."""

    device: str
    folder: Path

    @property
    def is_small(self) -> bool:
        return self.device == "cpu"

    def made(self, name: str, make: Callable[[Path], Path]) -> Path:
        """A model that several rows share is made once."""
        folder = self.folder / name
        if not (folder / "made").exists():
            make(folder)
            (folder / "made").touch()
        return folder


@dataclass(frozen=True)
class Row:
    name: str
    limit_s: float
    run: Callable[[Bench], Coroutine[Any, Any, Cells]]


@dataclass(frozen=True)
class Result:
    row: Row
    outcome: Outcome
    seconds: float
    cells: Cells

    def line(self) -> str:
        cells = (self.cells.get(column, "") for column in COLUMNS)
        return f"| {self.row.name} | {self.outcome} | {self.seconds:.1f} | {' | '.join(cells)} |"


HEAD = f"| row | outcome | s | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 3)}"


def run_all(rows: Sequence[Row], bench: Bench, seconds: float, tell: Callable[[str], None] = print) -> list[Result]:
    """Those that time is left for, in their order."""
    deadline, results = time.monotonic() + seconds, list[Result]()
    tell(HEAD)
    for row in rows:
        left_s = deadline - time.monotonic()
        if left_s <= 1:
            tell(f"{len(rows) - len(results)} rows were not run: the {seconds / 60:.0f} minutes are over.")
            break
        limit_s = row.limit_s * (SLOWER_ON_CPU if bench.is_small else 1)
        results.append(run_row(row, bench, min(limit_s, left_s)))
        tell(results[-1].line())
    return results


def run_row(row: Row, bench: Bench, limit_s: float) -> Result:
    """In a process that is forked from this one, which has imported the libraries and touched no card."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_in_child, args=(row, bench, sending))
    began = time.monotonic()
    process.start()
    sending.close()
    outcome, cells = _heard(receiving, limit_s)
    seconds = time.monotonic() - began
    # What it has started goes with it.
    with suppress(ProcessLookupError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.join(END_S)
    return Result(row, outcome, seconds, cells)


def _heard(receiving: Connection, limit_s: float) -> tuple[Outcome, Cells]:
    if not receiving.poll(limit_s):
        return "failed", {"note": f"over its {limit_s:.0f} s"}
    try:
        outcome, cells = receiving.recv()
    except EOFError:
        return "failed", {"note": "its process ended"}
    return outcome, cells


def _in_child(row: Row, bench: Bench, sending: Connection) -> None:
    os.setsid()
    try:
        sending.send(("ok", asyncio.run(row.run(bench))))
    except NotHere as reason:
        sending.send(("not here", {"note": str(reason)}))
    # Whatever a library raises is this row's result.
    except BaseException as error:
        traceback.print_exc(file=sys.stderr)
        words = " ".join(str(error).split())
        sending.send(("failed", {"note": f"{type(error).__name__}: {words[:200]}".replace("|", "/")}))
    finally:
        sending.close()
        # Threads of engines and half a worker must not keep it.
        os._exit(0)


def exit_code(results: Sequence[Result], rows: Sequence[Row]) -> int:
    if any(result.outcome == "failed" for result in results):
        return 1
    return 2 if len(results) < len(rows) else 0


def main(words: Sequence[str]) -> int:
    # Imported once: each row is forked from this process, and could use no card if this one had as much as asked
    # CUDA how many there are.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    from benchmarks.gpu_rows import ROWS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rows", default="", help="only rows whose names have one of these words")
    parser.add_argument("--list", action="store_true", help="only say which rows there are")
    parser.add_argument("--minutes", type=float, default=8.0)
    chosen = parser.parse_args(list(words))
    picked = [word for word in chosen.rows.split(",") if word]
    rows = [row for row in ROWS if not picked or any(word in row.name for word in picked)]
    if chosen.list or not rows:
        print("\n".join(f"{row.name} ({row.limit_s:.0f} s)" for row in rows) or "no such row")
        return 0 if rows else 1
    folder = Path(tempfile.mkdtemp(prefix="benchmarks-gpu-"))
    try:
        return exit_code(run_all(rows, Bench(chosen.device, folder), 60 * chosen.minutes), rows)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    # Under its own name, by which the rows know it.
    from benchmarks import gpu

    sys.exit(gpu.main(sys.argv[1:]))
