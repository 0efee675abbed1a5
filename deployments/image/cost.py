"""The work in a picture, in floating-point operations: a pass of the denoiser counted from its own configuration.

Counted on a copy without memory, so it costs no time on the device and does not depend on how the weights are kept.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

log = logging.getLogger("cluster.worker.worker")

#: What grows with the square of the pixels is attention, what does not grow is the text: nothing grows in other ways.
TERMS = 3


class Cost(NamedTuple):
    """Of one pass for one sample, as a polynomial in how many times `pixels` the picture has."""

    pixels: int
    terms: tuple[float, ...]
    #: Samples that one step takes at the model's own guidance.
    samples: float = 1.0

    def of(self, width: int, height: int, steps: int) -> float:
        ratio = width * height / self.pixels
        each = sum(term * ratio**power for power, term in enumerate(self.terms))
        return max(each, 0.0) * self.samples * steps


class Seen(NamedTuple):
    """A call that the denoiser got for a picture of so many pixels."""

    pixels: int
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    samples: int


def counted(module: Any, calls: Sequence[Seen], samples_per_step: float) -> Cost:
    """By calls for pictures of different sizes, three of which tell everything. Where they cannot be counted, pixels
    stand for work."""
    pixels = max(call.pixels for call in calls)
    try:
        found = _on_paper(module, calls)
    # A count is a convenience: a module that cannot be copied is still served, in an order by pixels.
    except Exception as error:
        log.info("operations of %s cannot be counted: %s: %s", type(module).__name__, type(error).__name__, error)
        return Cost(pixels, (0.0, float(pixels)), samples_per_step)
    return Cost(pixels, _terms({size / pixels: operations for size, operations in found.items()}), samples_per_step)


def _terms(by_ratio: Mapping[float, float]) -> tuple[float, ...]:
    """Of the polynomial through these; with one size known, work grows as the pixels do."""
    if len(by_ratio) == 1:
        return 0.0, next(iter(by_ratio.values()))
    ratios = sorted(by_ratio)[-TERMS:]
    powers = np.vander(ratios, increasing=True)
    return tuple(float(term) for term in np.linalg.solve(powers, [by_ratio[ratio] for ratio in ratios]))


def _on_paper(module: Any, calls: Sequence[Seen]) -> dict[int, float]:
    """Pixels -> operations for one sample."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    config = {name: value for name, value in module.config.items() if name != "quantization_config"}
    found = {}
    with torch.device("meta"), torch.no_grad():
        paper = type(module).from_config(config)
        for call in calls:
            with FlopCounterMode(display=False) as counter:
                paper(*_on_meta(list(call.args)), **_on_meta(dict(call.kwargs)))
            found[call.pixels] = counter.get_total_flops() / call.samples
    return found


def _on_meta(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        floats = value.is_floating_point()
        return torch.empty(value.shape, dtype=torch.float32 if floats else value.dtype, device="meta")
    if isinstance(value, dict):
        return {name: _on_meta(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_on_meta(one) for one in value)
    return value
