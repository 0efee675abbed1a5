from __future__ import annotations

import mmap
import os
from pathlib import Path

from cluster.worker.peak import PeakMeter, held, mapped_weights

MB = 10**6


def test_the_most_that_was_held_at_any_time_counts() -> None:
    before = held()
    with PeakMeter() as meter:
        for _ in range(5):
            bytes(bytearray(os.urandom(1)) * 200 * MB)
    needs = meter.needs()
    assert needs.memory_bytes > before + 150 * MB
    assert held() < before + 150 * MB
    assert needs.card_bytes == 0


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
