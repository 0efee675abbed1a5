from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cluster.family import Setup
from cluster.spec import Entry, Source
from deployments.device import dtype_for, torch_for

SOURCE = Source(hub="local", id="/m")
ENTRY = Entry(name="m", type="embedding", family="f", sources=(SOURCE,))


def setup(device: str = "cpu", threads: int = 1) -> Setup:
    return Setup(ENTRY, SOURCE, None, Path("/m"), device, threads)


@pytest.mark.parametrize(
    ("name", "device", "means"),
    [
        ("auto", "cpu", torch.float32),
        ("auto", "cuda", torch.bfloat16),
        ("float16", "cpu", torch.float16),
        ("float32", "cuda", torch.float32),
    ],
)
def test_computing_is_exact_on_cpu_and_fast_on_a_gpu(name: str, device: str, means: torch.dtype) -> None:
    assert dtype_for(name, setup(device)) is means


def test_torch_computes_on_the_cores_it_was_given() -> None:
    before = torch.get_num_threads()
    assert torch_for(setup(threads=before + 1)).get_num_threads() == before + 1
    torch_for(setup(threads=before))
