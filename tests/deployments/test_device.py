from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cluster import errors
from cluster.catalog.entry import Entry, Source
from cluster.worker.family import Setup
from deployments.device import dtype_for, dtype_name, torch_for

SOURCE = Source(hub="local", id="/m")
ENTRY = Entry(name="m", type="embedding", family="f", sources=(SOURCE,))


def setup(device: str = "cpu", threads: int = 1) -> Setup:
    return Setup(ENTRY, SOURCE, None, Path("/m"), device, threads)


@pytest.mark.parametrize(
    ("name", "device", "means"),
    [
        ("auto", "cpu", "float32"),
        ("auto", "cuda", "bfloat16"),
        ("auto", "mps", "bfloat16"),
        ("float16", "cpu", "float16"),
        ("float32", "cuda", "float32"),
    ],
)
def test_computing_is_exact_on_cpu_and_fast_on_a_gpu(name: str, device: str, means: str) -> None:
    assert dtype_name(name, device) == means
    assert dtype_for(name, setup()) is getattr(torch, dtype_name(name, "cpu"))


@pytest.mark.parametrize("device", ["cuda", "mps", "xpu"])
def test_a_card_that_torch_cannot_use_is_told_with_what_to_do(device: str) -> None:
    found = torch.backends.mps if device == "mps" else getattr(torch, device)
    if found.is_available():
        pytest.skip("it can be used here")
    with pytest.raises(
        errors.LoadFailed, match="m was given a GPU, but torch .* can use none: launch it with n_gpu none"
    ):
        torch_for(setup(device=device))


def test_torch_computes_on_the_cores_it_was_given() -> None:
    before = torch.get_num_threads()
    assert torch_for(setup(threads=before + 1)).get_num_threads() == before + 1
    torch_for(setup(threads=before))
