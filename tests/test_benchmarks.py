"""The matrix of faults is complete: each row is run or says why it cannot be. The cluster on paper is one that the
supervisor of today can run."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from benchmarks import gpu, growth
from benchmarks.faults import attacks, deaths, requests, wishes
from benchmarks.faults.rows import ROWS
from tests.live import until


def test_every_fault_and_every_class_of_attacks_has_its_row() -> None:
    assert attacks and deaths and requests and wishes
    assert {str(number) for number in range(1, 53)} | {f"a{number}" for number in range(1, 17)} <= set(ROWS)
    assert all(row.run is not None or row.why_not for row in ROWS.values())


def test_the_cluster_on_paper_grows() -> None:
    small, larger = asyncio.run(growth.grown(2)), asyncio.run(growth.grown(20))
    assert set(growth.exponents({2: small, 20: larger})) == set(small)
    assert asyncio.run(growth.tables_while_one_backs_off(ticks=2)) == 0
    assert asyncio.run(growth.launched(3))[0] > 0


# ---------------------------------------------------------------------------------------------- on one card


async def _works(bench: gpu.Bench) -> gpu.Cells:
    return {"speed": "9 texts/s"}


async def _fails(bench: gpu.Bench) -> gpu.Cells:
    raise ValueError("no kernel | for\n this card")


async def _lacks(bench: gpu.Bench) -> gpu.Cells:
    raise gpu.NotHere("vLLM is not installed")


async def _dies(bench: gpu.Bench) -> gpu.Cells:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


async def _hangs(bench: gpu.Bench) -> gpu.Cells:
    """With a process of its own, which has to end as well."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (bench.folder / "pid").write_text(str(child.pid))
    time.sleep(600)
    return {}


def test_a_row_that_fails_is_told_and_stops_no_other(tmp_path: Path) -> None:
    kinds = {"fails": _fails, "lacks": _lacks, "dies": _dies, "works": _works}
    rows, lines = [gpu.Row(name, 60, run) for name, run in kinds.items()], list[str]()
    results = gpu.run_all(rows, gpu.Bench("cpu", tmp_path), 240, lines.append)
    assert [result.outcome for result in results] == ["failed", "not here", "failed", "ok"]
    assert [result.cells.get("note") for result in results] == [
        "ValueError: no kernel / for this card",
        "vLLM is not installed",
        "its process ended",
        None,
    ]
    for row, line in zip(rows, lines[1:], strict=True):
        assert line.startswith(f"| {row.name} | ") and line.count("|") == 9
    assert gpu.exit_code(results, rows) == 1 and gpu.exit_code(results[-1:], rows[-1:]) == 0


def test_a_row_over_its_time_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    result = gpu.run_row(gpu.Row("hangs", 60, _hangs), gpu.Bench("cuda", tmp_path), 3.0)
    assert (result.outcome, result.cells["note"]) == ("failed", "over its 3 s")
    child = int((tmp_path / "pid").read_text())
    until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie", within=10)


def test_what_there_was_no_time_for_is_counted(tmp_path: Path) -> None:
    rows, lines = [gpu.Row("works", 60, _works)] * 2, list[str]()
    results = gpu.run_all(rows, gpu.Bench("cpu", tmp_path), 0.5, lines.append)
    assert (results, gpu.exit_code(results, rows)) == ([], 2) and lines[-1].startswith("2 rows were not run")


def test_rows_run_small_without_a_card() -> None:
    rows = "card,embedding packed,rerank,documents,doze,out of memory"
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--rows", rows]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = [line.split(" | ")[:2] for line in done.stdout.splitlines()[2:]]
    assert outcomes == [
        ["| card", "ok"],
        ["| embedding packed", "ok"],
        ["| rerank", "ok"],
        ["| ocr documents", "ok"],
        ["| doze and wake", "ok"],
        ["| out of memory", "not here"],
    ]
