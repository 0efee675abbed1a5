from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

from cluster.worker.peak import PeakMeter, held, mapped_weights
from tests.live import until

MB = 10**6


def test_the_most_that_was_held_at_any_time_counts() -> None:
    before = held()
    with PeakMeter() as meter:
        kept = bytearray(os.urandom(1)) * (200 * MB)
        # The thread that looks cannot while this one makes bytes, and may come late on a busy machine.
        until(lambda: meter.needs().memory_bytes > before + 150 * MB, within=5)
        del kept
    needs = meter.needs()
    assert needs.memory_bytes > before + 150 * MB
    assert held() < before + 150 * MB
    assert needs.card_bytes == 0


def test_processes_that_are_started_meanwhile_are_measured_apart() -> None:
    program = f"kept = bytearray(b'x') * {100 * MB}; input()"
    with PeakMeter() as meter:
        child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
        until(lambda: meter.beside > 100 * MB, within=10)
        child.communicate(b"\n")
    assert meter.needs().memory_bytes < held() + 100 * MB
    assert held(child.pid) == 0, "it has ended"


def test_weights_that_are_mapped_count_as_far_as_they_are_in_memory(tmp_path: Path) -> None:
    before = mapped_weights()
    for name in ("model.safetensors", "notes.txt"):
        (tmp_path / name).write_bytes(os.urandom(20 * MB))
    with open(tmp_path / "model.safetensors", "rb") as weights, open(tmp_path / "notes.txt", "rb") as notes:
        mapped = [mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) for file in (weights, notes)]
        assert all(sum(each[at] for at in range(0, 20 * MB, 4096)) for each in mapped)
        assert 19 * MB < mapped_weights() - before < 25 * MB
        for each in mapped:
            each.close()
    assert mapped_weights() == before


def test_a_file_that_is_mapped_twice_counts_once(tmp_path: Path) -> None:
    before = mapped_weights()
    (tmp_path / "model.onnx.data").write_bytes(os.urandom(20 * MB))
    with open(tmp_path / "model.onnx.data", "rb") as weights:
        mapped = [mmap.mmap(weights.fileno(), 0, access=mmap.ACCESS_READ) for _ in range(2)]
        assert all(sum(each[at] for at in range(0, 20 * MB, 4096)) for each in mapped)
        assert 19 * MB < mapped_weights() - before < 25 * MB
        for each in mapped:
            each.close()
