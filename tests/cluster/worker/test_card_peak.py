"""What a worker takes of its cards, with a torch that has cards on paper only, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.weights.memory import CUDA_CONTEXT_BYTES

ROOT = Path(__file__).parents[3]
MB = 10**6
#: Torch as far as it is asked for memory: it has reserved 900 MB at most and 600 now, on each card.
TORCH = """
class _Cards:
    def __init__(self, count): self.count = count
    def is_available(self): return self.count > 0
    def is_initialized(self): return self.count > 0
    def device_count(self): return self.count
    def max_memory_reserved(self, number): assert number < self.count; return 900 * 10**6
    def memory_reserved(self, number): assert number < self.count; return 600 * 10**6
import os
cuda = _Cards(int(os.environ["CUDA_CARDS"]))
xpu = _Cards(int(os.environ["XPU_CARDS"]))
"""
MEASURE = """
import json, os, sys, time
import importlib
if os.environ["HAS_TORCH"] == "1": import torch
from cluster.cards import Card, CardUser
from cluster.worker.peak import PeakMeter
readings = json.loads(sys.argv[1])
def read():
    size = readings.pop(0) if len(readings) > 1 else readings[0]
    return [Card(users=(CardUser(os.getpid(), bytes=size), CardUser(1, bytes=10**12)))] if size is not None else []
with PeakMeter(read) as meter:
    while len(readings) > 1: time.sleep(0.01)
print(meter.needs().card_bytes)
"""


def measured(folder: Path, readings: list[int | None], cuda: int = 1, xpu: int = 0, has_torch: bool = True) -> int:
    (folder / "torch.py").write_text(TORCH)
    facts = {"CUDA_CARDS": str(cuda), "XPU_CARDS": str(xpu), "HAS_TORCH": str(int(has_torch))}
    environment: dict[str, Any] = {**os.environ, **facts, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", MEASURE, json.dumps(readings)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize(
    ("readings", "cards", "expected"),
    [
        # It has 600 of 1,100 MB by torch: the other 500 are the driver's and other libraries', and come on top of 900.
        pytest.param([1100 * MB], {}, 1400 * MB, id="what is not torch's is measured"),
        pytest.param([2000 * MB, 1100 * MB], {}, 2000 * MB, id="another library had more for a while"),
        pytest.param([None], {}, 900 * MB + CUDA_CONTEXT_BYTES, id="no driver says it: what a context usually takes"),
        pytest.param([None], {"cuda": 2}, 2 * (900 * MB + CUDA_CONTEXT_BYTES), id="on each of its cards"),
        pytest.param([None], {"cuda": 0, "xpu": 1}, 900 * MB + CUDA_CONTEXT_BYTES, id="cards of another kind"),
        pytest.param([700 * MB], {"has_torch": False}, 700 * MB, id="a library that is not torch"),
        pytest.param([None], {"cuda": 0}, 0, id="no card"),
    ],
)
def test_what_a_worker_takes_of_its_cards(
    tmp_path: Path, readings: list[int | None], cards: dict[str, Any], expected: int
) -> None:
    assert measured(tmp_path, readings, **cards) == expected
