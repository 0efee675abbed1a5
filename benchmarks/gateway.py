"""What a gateway costs a request beside going to a cell itself, and what the death of one of three cells costs.

    python -m benchmarks.gateway [--seconds 3] [--rounds 3]

Three real clusters on this machine, each with the model of tests that answers with its input. Direct and through the
gateway are interleaved round by round; the median round of each is printed. Then one cell is killed, all its processes
with kill -9, under 32 callers.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import httpx
import orjson

from benchmarks.load import Load, drive
from tests.faults.traffic import traffic
from tests.live import LiveCluster, free_port, until

CELLS = 3
CONNECTIONS = (1, 32)
SHORT = orjson.dumps({"model": "echo", "items": ["x" * 960]})
LONG = orjson.dumps({"model": "echo", "items": ["x" * 1_000_000]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cells = [LiveCluster(Path(folder) / str(number), CLUSTER_LOG_LEVEL="WARNING") for number in range(CELLS)]
        gateway = None
        try:
            for cell in cells:
                cell.up()
                with cell.client() as client:
                    client.launch_model("echo")
            port = free_port()
            words = [word for number, cell in enumerate(cells) for word in ("--cell", f"{number}={cell.url}")]
            environment = {**cells[0].environment, "CLUSTER_HOME": f"{folder}/gateway"}
            gateway = subprocess.Popen(cells[0].command_line("gateway", "--port", str(port), *words), env=environment)
            url = f"http://127.0.0.1:{port}"
            until(lambda: _live(url) == CELLS, within=30)
            _compare(cells[0].url, url, arguments.seconds, arguments.rounds)
            _kill(cells, url)
        finally:
            if gateway is not None:
                gateway.terminate()
                gateway.wait(10)
            for cell in cells:
                cell.down()


def _live(url: str) -> int:
    try:
        return int(httpx.get(f"{url}/ready").json()["live"])
    except httpx.TransportError:
        return 0


def _compare(direct: str, gateway: str, seconds: float, rounds: int) -> None:
    print("| body | callers | direct p50, ms | gateway p50, ms | added | direct /s | gateway /s | failed |")
    print("|---|---|---|---|---|---|---|---|")
    for name, body in (("1 kB", SHORT), ("1 MB", LONG)):
        for callers in CONNECTIONS:
            loads: dict[str, list[Load]] = {direct: [], gateway: []}
            for _ in range(rounds):
                for url, measured in loads.items():
                    measured.append(drive(f"{url}/v1/infer", body, callers, seconds))
            first, second = (_median(loads[url]) for url in (direct, gateway))
            failed = sum(load.failed for measured in loads.values() for load in measured)
            print(
                f"| {name} | {callers} | {first.p50_ms:.2f} | {second.p50_ms:.2f} | "
                f"{second.p50_ms - first.p50_ms:.2f} | {first.requests_per_s:.0f} | {second.requests_per_s:.0f} | "
                f"{failed} |",
                flush=True,
            )


def _median(loads: list[Load]) -> Load:
    middle = statistics.median_low(load.p50_ms for load in loads)
    return next(load for load in loads if load.p50_ms == middle)


def _kill(cells: list[LiveCluster], url: str) -> None:
    with traffic(url, "echo") as seen:
        before = seen.ok
        started = time.monotonic()
        cells[-1].kill_everything()
        until(lambda: _live(url) == CELLS - 1, within=10)
        left_out = time.monotonic() - started
    print(f"a cell, kill -9 of all its processes: {seen} ({before} before), left out after {left_out:.2f} s")
    started = time.monotonic()
    with traffic(url, "echo") as seen:
        cells[-1].up()
        until(lambda: _live(url) == CELLS, within=60)
    print(f"the cell comes back: {seen}, {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
