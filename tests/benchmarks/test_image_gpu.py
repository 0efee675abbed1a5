from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.image_gpu import FLUX_TEXT, SHAPES, Bench, Shape, flux_denoiser, sdxl_denoiser, variants
from deployments.image.cost import ObservedCall, counted
from deployments.image.options import ImageOptions
from tests import pipelines


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="meta")


def tiny_flux() -> object:
    pipe = pipelines.flux(Path())
    pipe.text_encoder = pipe.text_encoder_2 = pipe.tokenizer = pipe.tokenizer_2 = None
    return pipe


TINY = Shape("tiny", 4, "transformer", tiny_flux, {"prompt_embeds": (8, 64), "pooled_prompt_embeds": (64,)})


def test_flux_has_the_size_and_the_work_of_flux_1_dev() -> None:
    with torch.device("meta"):
        denoiser = flux_denoiser()
    call = {
        "hidden_states": meta(1, 4096, 64),
        "encoder_hidden_states": meta(1, *FLUX_TEXT["prompt_embeds"]),
        "pooled_projections": meta(1, 768),
        "timestep": meta(1),
        "guidance": meta(1),
        "img_ids": meta(4096, 3),
        "txt_ids": meta(512, 3),
    }
    cost = counted(denoiser, [ObservedCall(1024 * 1024, (), call, 1)], 1)
    assert sum(one.numel() for one in denoiser.parameters()) == pytest.approx(11.9e9, rel=0.01)
    assert cost.of(1024, 1024, 28) == pytest.approx(2083e12, rel=0.01)


def test_sdxl_has_the_size_and_the_work_of_its_base() -> None:
    with torch.device("meta"):
        denoiser = sdxl_denoiser()
    told = {"text_embeds": meta(1, 1280), "time_ids": meta(1, 6)}
    call = {
        "sample": meta(1, 4, 128, 128),
        "timestep": meta(1),
        "encoder_hidden_states": meta(1, 77, 2048),
        "added_cond_kwargs": told,
    }
    cost = counted(denoiser, [ObservedCall(1024 * 1024, (), call, 1)], SHAPES["sdxl"].samples)
    assert sum(one.numel() for one in denoiser.parameters()) == pytest.approx(2.57e9, rel=0.01)
    assert cost.of(1024, 1024, 50) == pytest.approx(676e12, rel=0.01)


def test_work_is_counted_per_picture_whatever_the_batch() -> None:
    bench = Bench(TINY, "cpu", ImageOptions())
    assert bench.cost(64, 1).of(64, 64, 4) == pytest.approx(bench.cost(64, 4).of(64, 64, 4))
    assert bench.cost(128, 1).of(128, 128, 4) > 2 * bench.cost(64, 1).of(64, 64, 4)


def test_a_shape_is_measured_as_it_was_told_to_compute() -> None:
    bench = Bench(TINY, "cpu", ImageOptions(attention_backend="native"))
    found = bench.measure(64, 2, TINY.steps)
    assert found.seconds_per_image > 0
    assert found.operations == bench.cost(64, 1).of(64, 64, TINY.steps)
    assert bench.told["attention_backend"] == "native"
    assert "compile" not in bench.told


def test_every_kernel_for_attention_is_compiled_once_and_the_first_runs_as_it_comes_too() -> None:
    found = [(one.attention_backend, one.compile) for one in variants(["native", "flash"], eager_only=False)]
    assert found == [("native", False), ("native", True), ("flash", True)]
    assert [one.compile for one in variants(["native", "flash"], eager_only=True)] == [False]
