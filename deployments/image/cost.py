"""The work in a picture, in floating-point operations: one pass of the denoiser, counted from its configuration.

The count is made on a copy on torch's meta device, which has no memory. So it takes no time on the device, and does not
depend on how the weights are stored.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deployments.image.tensors import Argument

if TYPE_CHECKING:
    from diffusers import ModelMixin

log = logging.getLogger("cluster.worker.worker")

#: Terms of the polynomial: the text does not grow with the pixels, most layers grow with them, and attention with their
#: square. Nothing grows in another way.
TERMS = 3


class Cost(NamedTuple):
    """Operations of one pass for one sample, as a polynomial in the ratio of a picture's pixels to `pixels`."""

    pixels: int
    terms: tuple[float, ...]
    #: Samples of one step at the model's own guidance.
    samples: float = 1.0

    def of(self, width: int, height: int, steps: int) -> float:
        ratio = width * height / self.pixels
        each = sum(term * ratio**power for power, term in enumerate(self.terms))
        return max(each, 0.0) * self.samples * steps


class ObservedCall(NamedTuple):
    """A call that the denoiser got for a picture of so many pixels."""

    pixels: int
    args: Sequence[Argument]
    kwargs: Mapping[str, Argument]
    samples: int


def counted(module: ModelMixin, calls: Sequence[ObservedCall], samples_per_step: float) -> Cost:
    """The cost by calls for pictures of different sizes; three sizes determine it. Where the operations cannot be
    counted, cost is proportional to pixels."""
    pixels = max(call.pixels for call in calls)
    try:
        operations = _operations(module, calls)
    # A model whose denoiser cannot be copied is still served; its requests are then ordered by their pixels.
    except Exception as error:
        log.info("operations of %s cannot be counted: %s: %s", type(module).__name__, type(error).__name__, error)
        return Cost(pixels, (0.0, float(pixels)), samples_per_step)
    return Cost(pixels, _terms({size / pixels: count for size, count in operations.items()}), samples_per_step)


def _terms(by_ratio: Mapping[float, float]) -> tuple[float, ...]:
    """The terms of the polynomial through these points; one point alone gives a cost proportional to pixels."""
    if len(by_ratio) == 1:
        return 0.0, next(iter(by_ratio.values()))
    ratios = sorted(by_ratio)[-TERMS:]
    powers = np.vander(ratios, increasing=True)
    return tuple(float(term) for term in np.linalg.solve(powers, [by_ratio[ratio] for ratio in ratios]))


def _operations(module: ModelMixin, calls: Sequence[ObservedCall]) -> dict[int, float]:
    """Pixels -> operations for one sample."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    config = {name: value for name, value in module.config.items() if name != "quantization_config"}
    operations = {}
    with torch.device("meta"), torch.no_grad():
        twin = type(module).from_config(config)
        for call in calls:
            with FlopCounterMode(display=False) as counter:
                twin(*_on_meta(list(call.args)), **_on_meta(dict(call.kwargs)))
            operations[call.pixels] = counter.get_total_flops() / call.samples
    return operations


def _on_meta(value: Argument) -> Argument:
    import torch

    if isinstance(value, torch.Tensor):
        floats = value.is_floating_point()
        return torch.empty(value.shape, dtype=torch.float32 if floats else value.dtype, device="meta")
    if isinstance(value, dict):
        return {name: _on_meta(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_on_meta(item) for item in value)
    return value
