"""Image servers side by side: the same weights, prompts, seeds, sizes, cores and load generator, HTTP included.

    python -m benchmarks.image [--only ours,xinference] [--models tiny,large] [--concurrency 1,4,16] [--seconds 10]
        [--rounds 3] [--json FILE] [--chart PNG]
    python -m benchmarks.image --gpu [--help]

Each is held against the bare diffusers pipeline in a loop in one process. Machines are faster and slower by the minute:
one caller's requests take turns with calls of that pipeline, and of each such pair the ratio counts; under load the
loop is run right before and right after. What one call of it for 16 pictures gives is shown too: where that is no
faster, the model fills the cores by itself. A round starts every server in turn with one model; the median is shown.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import psutil
from PIL import Image

from benchmarks import image_gpu
from benchmarks.image_models import MODELS, Model, save
from benchmarks.load import drive_groups, percentile, request_bytes
from benchmarks.processes import Meter
from benchmarks.rivals import bare_diffusers
from benchmarks.rivals.bare_diffusers import QUALITY, Bare
from benchmarks.rivals.our_images import OurImages
from benchmarks.rivals.server import Environment, Running, Server
from benchmarks.rivals.xinference_images import XinferenceImages

HERE = Path(__file__).parent
LOOP, AT_ONCE = "bare-loop", "bare-at-once"
ROUTE = "/v1/images/generations"
SERVERS = ("ours", "xinference")
#: Callers of the full load, and pictures of one call of the bare pipeline beside it.
FULL = 16
#: Different requests of each caller: none is answered by what was computed for another.
OWN_REQUESTS = 64
#: Mean difference to the bare pipeline's pictures, in levels of 256, above which they are other pictures.
MOST_DIFFERENCE = 1.0

#: What is aimed at: the time of one request, of the bare pipeline's; pictures per second with 16 callers, of the
#: loop's, where one call of 16 shows that this much can be had, and elsewhere; and of Xinference's.
MOST_TIME, LEAST_BATCHED, LEAST_SATURATED, LEAST_OF_XINFERENCE = 1.05, 2.5, 0.97, 2.0


@dataclass(frozen=True)
class Row:
    """One server with one model and so many callers in one round."""

    server: str
    model: str
    callers: int
    images_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_s_per_image: float
    peak_mb: float
    failed: int = 0
    first_failure: str = ""
    #: Of the loop at the same time: the time of one request, and pictures per second.
    time_of_the_loops: float = 0.0
    rate_of_the_loops: float = 0.0


@dataclass(frozen=True)
class Check:
    """How far a server's pictures, drawn four at once, are those of the bare pipeline."""

    server: str
    model: str
    mean_difference: float
    most_difference: float

    @property
    def is_right(self) -> bool:
        return self.mean_difference <= MOST_DIFFERENCE


@dataclass
class Findings:
    rows: list[Row] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)


# What is asked.


def asked_by(caller: int) -> list[tuple[str, int]]:
    """Prompts, each another, with their seeds."""
    numbers = range(caller * OWN_REQUESTS, (caller + 1) * OWN_REQUESTS)
    return [(f"{number} boats before a lighthouse", number) for number in numbers]


def body_of(uid: str, model: Model, prompt: str, seed: int) -> bytes:
    """In words that all servers know; a JPEG, because Xinference has nothing else."""
    options = {"num_inference_steps": model.steps, "guidance_scale": model.guidance, "seed": seed}
    body = {
        "model": uid,
        "prompt": prompt,
        "n": 1,
        "size": f"{model.side}*{model.side}",
        "response_format": "b64_json",
        "kwargs": orjson.dumps(options).decode(),
        "output_format": "jpeg",
        "output_compression": QUALITY,
    }
    return orjson.dumps(body)


# What is measured.


def measure(name: str, running: Running, model: Model, callers: int, seconds: float, bare: Bare) -> Row:
    if callers == 1:
        return _in_turn(name, running, model, seconds, bare)
    url = running.url + ROUTE
    requests = [
        [request_bytes(url, body_of(running.model, model, *one)) for one in asked_by(caller)]
        for caller in range(callers)
    ]
    around = bare.loop(asked_by(callers), seconds / 2)
    with Meter(running.processes()) as meter:
        load = drive_groups(url, {"": requests}, seconds)[""]
    around += bare.loop(asked_by(callers), seconds / 2)
    images = max(sum(load.answered), 1)
    return Row(
        name,
        model.name,
        callers,
        load.requests_per_s,
        load.p50_ms,
        load.p99_ms,
        meter.cpu_seconds / images,
        meter.peak_bytes / 1e6,
        load.failed,
        load.first_failure,
        rate_of_the_loops=load.requests_per_s * statistics.mean(around),
    )


def _in_turn(name: str, running: Running, model: Model, seconds: float, bare: Bare) -> Row:
    """One caller's requests, each followed by the same picture from the bare pipeline."""
    took: list[float] = []
    theirs: list[float] = []
    failure = ""
    with Meter(running.processes()) as meter, httpx.Client(base_url=running.url, timeout=300) as http:
        for asked in cycle(asked_by(0)):
            if took and sum(took) >= seconds:
                break
            body = body_of(running.model, model, *asked)
            began = time.perf_counter()
            answer = http.post(ROUTE, content=body, headers={"content-type": "application/json"})
            took.append(time.perf_counter() - began)
            theirs += bare.loop([asked], 0.0)
            failure = failure or ("" if answer.status_code == 200 else answer.text)
    ordered = sorted(took)
    return Row(
        name,
        model.name,
        1,
        len(took) / sum(took),
        percentile(ordered, 0.50) * 1000,
        percentile(ordered, 0.99) * 1000,
        meter.cpu_seconds / len(took),
        meter.peak_bytes / 1e6,
        int(bool(failure)),
        failure,
        time_of_the_loops=statistics.median(one / other for one, other in zip(took, theirs, strict=True)),
        rate_of_the_loops=sum(theirs) / sum(took),
    )


def measure_bare(bare: Bare, model: Model, seconds: float, at_once: int) -> Row:
    with Meter(bare.processes) as meter:
        took = sorted(bare.loop(asked_by(0), seconds, at_once))
    images = len(took) * at_once
    return Row(
        LOOP if at_once == 1 else AT_ONCE,
        model.name,
        at_once,
        images / sum(took),
        percentile(took, 0.50) * 1000,
        percentile(took, 0.99) * 1000,
        meter.cpu_seconds / images,
        meter.peak_bytes / 1e6,
    )


def check(name: str, running: Running, model: Model, expected: Sequence[bytes]) -> Check:
    """Four requests at once: what is batched is checked as well."""

    def drawn(one: tuple[str, int]) -> bytes:
        body = orjson.loads(body_of(running.model, model, *one))
        answer = httpx.post(running.url + ROUTE, json=body, timeout=300)
        if answer.status_code != 200:
            raise RuntimeError(f"It answered {answer.status_code}: {answer.text[:300]}")
        return base64.b64decode(answer.json()["data"][0]["b64_json"])

    with ThreadPoolExecutor(len(expected)) as pool:
        found = list(pool.map(drawn, asked_by(0)[: len(expected)]))
    differences = [np.abs(_pixels(one) - _pixels(other)) for one, other in zip(found, expected, strict=True)]
    return Check(name, model.name, max(float(d.mean()) for d in differences), max(float(d.max()) for d in differences))


def _pixels(file: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(file)), np.float32)


# What is shown.


def median(rows: Sequence[Row]) -> Row:
    """Of the rounds of one server, model and load."""
    values = {one.name: getattr(rows[0], one.name) for one in fields(Row)}
    for one in fields(Row):
        if one.type == "float":
            values[one.name] = statistics.median(getattr(row, one.name) for row in rows)
    values["failed"] = sum(row.failed for row in rows)
    values["first_failure"] = next((row.first_failure for row in rows if row.first_failure), "")
    return Row(**values)


def medians(rows: Sequence[Row]) -> list[Row]:
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.model, row.callers, row.server), []).append(row)
    return [median(group) for group in groups.values()]


def table(model: Model, rows: Sequence[Row], wrong: frozenset[str]) -> str:
    lines = [
        f"\n### {model.name}: {model.says}, {model.side} x {model.side}, {model.steps} steps\n",
        "| | callers | images/s | of the loop's | p50 ms | p99 ms | CPU s per image | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted((row for row in rows if row.model == model.name), key=lambda row: row.callers):
        of_the_loop = f"{row.rate_of_the_loops:.2f}" if row.rate_of_the_loops else ""
        notes = " (wrong pictures)" if row.server in wrong else f" ({row.failed} failed)" if row.failed else ""
        lines.append(
            f"| {row.server}{notes} | {row.callers} | {row.images_per_s:.2f} "
            f"| {of_the_loop} | {row.p50_ms:.0f} | {row.p99_ms:.0f} | {row.cpu_s_per_image:.2f} | {row.peak_mb:.0f} |"
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class Aims:
    """What was aimed at for one model, of one server; None where a side of it was not measured."""

    model: str
    time_of_one: float | None
    of_the_loop: float | None
    #: What one call of the bare pipeline for as many pictures gives, of the loop's: how idle the cores were.
    of_the_loop_at_once: float | None
    of_xinference: float | None

    @property
    def least_of_the_loop(self) -> float:
        has_room = self.of_the_loop_at_once is not None and self.of_the_loop_at_once >= LEAST_BATCHED
        return LEAST_BATCHED if has_room else LEAST_SATURATED


def aims_of(model: str, rows: Sequence[Row]) -> Aims:
    known = {(row.server, row.callers): row for row in rows if row.model == model and not row.failed}

    def ratio(name: str, one: tuple[str, int], other: tuple[str, int]) -> float | None:
        if one not in known or other not in known:
            return None
        return float(getattr(known[one], name) / getattr(known[other], name))

    return Aims(
        model,
        known["ours", 1].time_of_the_loops if ("ours", 1) in known else None,
        known["ours", FULL].rate_of_the_loops if ("ours", FULL) in known else None,
        ratio("images_per_s", (AT_ONCE, FULL), (LOOP, 1)),
        ratio("images_per_s", ("ours", FULL), ("xinference", FULL)),
    )


def aims_table(found: Sequence[Aims]) -> str:
    lines = [
        f"\n### The aims: one caller's time; images/s of {FULL} callers\n",
        "| | time of the bare pipeline | images/s of the loop | one bare call of 16, of the loop "
        "| images/s of Xinference |",
        "|---|---|---|---|---|",
    ]
    for one in found:
        at_once = "" if one.of_the_loop_at_once is None else f"{one.of_the_loop_at_once:.2f} ×"
        lines.append(
            f"| {one.model} | {_judged(one.time_of_one, MOST_TIME, most=True)} "
            f"| {_judged(one.of_the_loop, one.least_of_the_loop)} | {at_once} "
            f"| {_judged(one.of_xinference, LEAST_OF_XINFERENCE)} |"
        )
    return "\n".join(lines)


def _judged(found: float | None, aim: float, *, most: bool = False) -> str:
    if found is None:
        return ""
    is_met = found <= aim if most else found >= aim
    return f"{found:.2f} × ({'at most' if most else 'at least'} {aim}: {'met' if is_met else '**not met**'})"


# The order of things.


def one_model(
    model: Model,
    folder: Path,
    servers: Sequence[Server],
    asked: argparse.Namespace,
    round_: int,
    logs: Path,
    findings: Findings,
) -> None:
    with bare_diffusers.started(model, folder, logs / "bare.log") as bare:
        expected = bare.pictures(asked_by(0)[:4])
        for at_once in (1, FULL):
            bare.loop(asked_by(1), 0.0, at_once)
            row = measure_bare(bare, model, asked.seconds, at_once)
            findings.rows.append(row)
            _say_row(row)
        for server in servers:
            try:
                one_server(server, model, bare, expected, asked, round_, logs, findings)
            except Exception as error:  # one that fails must not cost the figures of the others
                findings.absent[f"{server.name}, {model.name}"] = str(error)
                _say(f"{server.name}, {model.name}: {error}")


def one_server(
    server: Server,
    model: Model,
    bare: Bare,
    expected: Sequence[bytes],
    asked: argparse.Namespace,
    round_: int,
    logs: Path,
    findings: Findings,
) -> None:
    began = time.monotonic()
    with server.started(model.name, asked.environments, logs / f"{server.name}.log") as running:
        _say(f"{server.name}: {model.name} ready after {time.monotonic() - began:.1f} s {running.engine}")
        found = check(server.name, running, model, expected)
        if round_ == 0:
            findings.checks.append(found)
            _say(
                f"{server.name}: {model.name} differs from the bare pipeline by {found.mean_difference:.3f} of 256 "
                f"levels on average, {found.most_difference:.0f} at most"
            )
        for callers in asked.concurrency:
            row = measure(server.name, running, model, callers, asked.seconds, bare)
            findings.rows.append(row)
            _say_row(row)


def _say_row(row: Row) -> None:
    _say(
        f"{row.server}: {row.model}, {row.callers} callers: {row.images_per_s:.2f} images/s, p50 {row.p50_ms:.0f} ms, "
        f"p99 {row.p99_ms:.0f} ms, {row.cpu_s_per_image:.2f} CPU s per image, {row.peak_mb:.0f} MB"
        + (f", {row.rate_of_the_loops:.2f} of the loop's" if row.rate_of_the_loops else "")
        + (f", {row.failed} FAILED: {row.first_failure[:200]!r}" if row.failed else "")
    )


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def main() -> None:
    if "--gpu" in sys.argv:
        image_gpu.main([word for word in sys.argv[1:] if word != "--gpu"])
        return
    # So that what was started is stopped on that way out too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    asked = _asked()
    print(
        f"{psutil.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}; "
        f"{asked.rounds} rounds of {asked.seconds:g} s"
    )
    with tempfile.TemporaryDirectory(prefix="benchmark-images-") as kept:
        folders = {name: Path(kept) / name for name in asked.models}
        # Torch is gone with the process that needed it.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
            list(apart.map(save, folders, folders.values()))
        _measure_all(asked, folders)


def _measure_all(asked: argparse.Namespace, folders: Mapping[str, Path]) -> None:
    findings = Findings()
    logs = Path(tempfile.mkdtemp(prefix="benchmark-logs-"))
    settings = dict(pair.split("=", 1) for pair in asked.setting)
    every: list[Server] = [OurImages(folders, settings), XinferenceImages(folders)]
    servers = [server for server in every if server.name in asked.only]
    for server in servers:
        server.install(asked.environments)
    for round_ in range(asked.rounds):
        for name in asked.models:
            one_model(MODELS[name], folders[name], servers, asked, round_, logs, findings)
    _show(asked, findings)
    print(f"\nLoad after {os.getloadavg()[0]:.1f}; logs in {logs}")


def _show(asked: argparse.Namespace, findings: Findings) -> None:
    rows = medians(findings.rows)
    for name in asked.models:
        wrong = frozenset(one.server for one in findings.checks if one.model == name and not one.is_right)
        print(table(MODELS[name], rows, wrong))
    print(aims_table([aims_of(name, rows) for name in asked.models]))
    for name, why in findings.absent.items():
        print(f"\nNot measured: {name}: {why}")
    figures = {
        "rows": [asdict(row) for row in rows],
        "rounds": [asdict(row) for row in findings.rows],
        "checks": [asdict(one) for one in findings.checks],
        "absent": findings.absent,
        "cores": psutil.cpu_count(),
    }
    kept = asked.json or Path(tempfile.mkdtemp(prefix="benchmark-figures-")) / "figures.json"
    kept.write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2))
    if asked.chart:
        draw(kept, asked.chart, asked.environments)


def draw(figures: Path, chart: Path, environments: Path) -> None:
    environment = Environment(environments / "chart", HERE / "requirements.txt", with_torch=False)
    environment.install()
    subprocess.run([str(environment.python), str(HERE / "image_chart.py"), str(figures), str(chart)], check=True)
    print(f"The chart is in {chart}.")


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=SERVERS, type=_among(SERVERS), help="servers, with commas between")
    parser.add_argument("--models", default=tuple(MODELS), type=_among(MODELS), help=", ".join(MODELS))
    parser.add_argument("--concurrency", default=(1, 4, FULL), type=_numbers, help="callers, with commas between")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--environments", type=Path, default=Path("~/.cache/cluster-benchmarks"))
    parser.add_argument("--setting", action="append", default=[], help="CLUSTER_NAME=VALUE for ours; may be repeated")
    parser.add_argument("--json", type=Path, help="file for the figures of every round")
    parser.add_argument("--chart", type=Path, help="PNG")
    asked = parser.parse_args()
    asked.environments = asked.environments.expanduser().absolute()
    return asked


def _among(known: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    def names(given: str) -> tuple[str, ...]:
        found = tuple(given.split(","))
        for name in found:
            if name not in known:
                raise argparse.ArgumentTypeError(f"there is no {name}; there is {', '.join(known)}")
        return found

    return names


def _numbers(given: str) -> tuple[int, ...]:
    return tuple(int(number) for number in given.split(","))


if __name__ == "__main__":
    main()
