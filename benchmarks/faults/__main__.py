"""Runs the fault matrix and the classes of attacks against a cluster of its own, and prints a table.

python -m benchmarks.faults [--row 1 --row a3] [--json]
python -m benchmarks.faults --against ours --against xinference   the same faults, one model, both servers
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.faults import attacks, beside, deaths, requests, wishes  # noqa: F401  each registers its rows
from benchmarks.faults.rows import ROW_S, ROWS, Bench, Outcome, Row, alarm


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.faults")
    parser.add_argument("--row", action="append", default=[], help="1 to 52, or a1 to a16; all when not given")
    parser.add_argument("--against", action="append", default=[], choices=("ours", "xinference"))
    parser.add_argument("--environments", type=Path, default=Path("benchmarks/.environments"))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    # Exits as usual when it is ended early, so that no cluster is left running.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    if asked.against:
        results = beside.compare(asked.against, asked.environments, asked.row)
    else:
        results = run([ROWS[key] for key in asked.row or sorted(ROWS, key=order)], quiet=asked.json)
    if asked.json:
        print(json.dumps(results, indent=1))
    else:
        print_summary(results)


def order(key: str) -> tuple[bool, int]:
    return key.startswith("a"), int(key.removeprefix("a"))


def run(rows: list[Row], quiet: bool) -> list[dict[str, object]]:
    bench = Bench()
    results = []
    if not quiet:
        print(f"{os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}\n")
        print("| row | fault | ok | failed | held | s | verdict | |\n|---|---|---|---|---|---|---|---|")
    try:
        for row in rows:
            result = run_one(bench, row)
            results.append(result)
            if not quiet:
                print(line(result), flush=True)
    finally:
        bench.close()
    return results


def run_one(bench: Bench, row: Row) -> dict[str, object]:
    outcome = Outcome()
    verdict = "not applicable"
    started = time.monotonic()
    if row.run is None:
        outcome.note = row.why_not
    else:
        try:
            bench.renew()
            with alarm(ROW_S):
                row.run(bench, outcome)
            verdict = "held" if not outcome.failed else "broken"
        # Whatever goes wrong in a row is the result of that row; the other rows still run.
        except Exception as error:
            verdict = "broken"
            outcome.say(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        with suppress(Exception):
            if left := bench.tidy():
                verdict = "broken"
                outcome.say(left)
    took = time.monotonic() - started
    return {"row": row.key, "fault": row.fault, "verdict": verdict, "took": round(took, 1), **asdict(replace(outcome))}


def line(result: dict[str, object]) -> str:
    seconds = result["seconds"]
    counts = [result[name] or "" for name in ("ok", "failed", "held")]
    shown = f"{seconds:.1f}" if isinstance(seconds, float) else ""
    note = str(result["note"]).replace("|", "/")
    cells = [result["row"], result["fault"], *counts, shown, result["verdict"], note]
    return "| " + " | ".join(map(str, cells)) + " |"


def print_summary(results: list[dict[str, object]]) -> None:
    verdicts = [result["verdict"] for result in results]
    print(f"\nheld {verdicts.count('held')}, broken {verdicts.count('broken')} of {len(results)}", end="")
    print(f", not applicable {verdicts.count('not applicable')}")


if __name__ == "__main__":
    main()
