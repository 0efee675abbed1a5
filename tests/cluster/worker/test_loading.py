from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cluster import errors
from cluster.launch import Wanted
from cluster.status import Claim
from cluster.worker.family import BatchHints, Example, Setup
from tests.cluster.worker.held_workers import PATIENCE_S, WHERE, Broken, Held, Streamed, loaded, make_worker, play
from tests.families import Echo
from tests.make import GIB


class StreamedLargest(Streamed):
    largest = Example(["large"])
    pace = BatchHints(speed=1.0)


def test_a_worker_loads_warms_up_and_is_ready(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path, steps=7)
        assert (await worker.describe())[2].phase == "created"
        report = await loaded(worker)
        assert (report.phase, report.progress.stage, report.progress.fraction) == ("ready", "ready", 1.0)
        assert (report.node_id, report.node_ip) == WHERE
        assert report.pid and report.memory_bytes > 0 and report.load_seconds > 0
        assert report.peak is not None and report.peak.memory_bytes > 0 and report.peak.card_bytes == 0
        assert report.is_peak_full, "its example repeated is a full batch"
        assert report.facts.listed["pid"] == report.pid
        setup = Held.seen[0]
        assert (setup.options.steps, setup.folder, setup.device, setup.threads) == (7, tmp_path, "cpu", 2)
        assert Held.entered.is_set()  # by the example, before any request

    play(scene())


def test_a_streaming_family_is_measured_in_full_only_at_a_value_of_the_largest_size(tmp_path: Path) -> None:
    async def scene() -> None:
        assert not (await loaded(make_worker(tmp_path, Streamed))).is_peak_full
        assert (await loaded(make_worker(tmp_path, StreamedLargest))).is_peak_full

    play(scene())


def test_the_way_to_ready_can_be_followed(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path, load_seconds=0.2)
        fractions, seen, phase = [], -1, ""
        await worker.start(1, WHERE, 1)
        while phase != "ready":
            seen, report = await worker.report(1, seen, PATIENCE_S)
            fractions.append(report.progress.fraction)
            phase = report.phase
        assert len(set(fractions)) > 3
        assert all(0 <= fraction <= 0.95 for fraction in fractions[:-1])
        assert fractions[-1] == 1.0

    play(scene())


@pytest.mark.parametrize(
    ("family", "options", "says"),
    [
        pytest.param(Echo, {"load_error": "no such layer"}, "ValueError: no such layer", id="the load raises"),
        pytest.param(Echo, {"steps": "many"}, "steps", id="an option it does not take"),
        pytest.param(Broken, {}, "RuntimeError: the kernel is not there", id="the warm-up raises"),
    ],
)
def test_a_failed_load_says_why_and_how_its_log_ended(
    tmp_path: Path, family: type[Echo], options: dict[str, Any], says: str
) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path, family, **options)
        report = await loaded(worker)
        assert report.phase == "failed"
        assert isinstance(report.error, errors.LoadFailed)
        assert report.error.message.startswith("m could not be loaded: ") and says in report.error.message
        assert 0 < len(report.log_tail) <= 20
        assert says in "\n".join(report.log_tail)

    play(scene())


def test_our_own_error_is_the_reason_as_it_is(tmp_path: Path) -> None:
    async def scene() -> None:
        report = await loaded(make_worker(tmp_path / "absent"))
        assert isinstance(report.error, errors.DownloadFailed)
        assert "does not exist" in report.error.message

    play(scene())


def test_a_second_start_is_the_first_one(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await asyncio.gather(*(worker.start(1, WHERE, 2) for _ in range(5)))
        await loaded(worker)
        assert sum(isinstance(seen, Setup) for seen in Held.seen) == 1

    play(scene())


def test_a_worker_describes_itself_to_a_supervisor_that_finds_it(tmp_path: Path) -> None:
    async def scene() -> None:
        worker = make_worker(tmp_path)
        await loaded(worker)
        wanted, claim, report = await worker.describe()
        assert isinstance(wanted, Wanted) and wanted.uid == "m"
        assert (claim, report.phase) == (Claim(GIB), "ready")

    play(scene())
