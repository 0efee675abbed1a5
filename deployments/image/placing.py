"""Where the parts of a loaded pipeline are: on their device, or in main memory until they are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deployments.image.options import ImageOptions

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch.nn import Module


def place(pipe: DiffusionPipeline, denoiser: str, options: ImageOptions, device: str) -> None:
    if options.offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif options.offload is not None:
        _offload_groups(pipe, denoiser if options.offload == "group" else "", device)
    elif device == "cpu" or options.device_map == "cpu":
        pipe.to("cpu")
    elif options.device_map != "balanced":
        pipe.to(device)


def _offload_groups(pipe: DiffusionPipeline, in_blocks: str, device: str) -> None:
    """Offloads layer by layer, or the part in the slot `in_blocks` block by block. Packed parts stay on the device.

    Not by diffusers' sequential offload: it cannot handle every kind of parameter, and this takes as little memory.
    The VAE is never offloaded by blocks: pipelines call its decoder directly, past the hook that loads a block.
    """
    import torch
    from diffusers.hooks import apply_group_offloading

    arguments = {
        "onload_device": torch.device(device),
        "offload_device": torch.device("cpu"),
        "use_stream": device != "cpu",
    }
    for slot, part in pipe.components.items():
        if not isinstance(part, torch.nn.Module):
            continue
        if is_packed(part):
            part.to(device)
        elif slot == in_blocks:
            apply_group_offloading(part, offload_type="block_level", num_blocks_per_group=1, **arguments)
        else:
            apply_group_offloading(part, offload_type="leaf_level", **arguments)


def is_packed(part: Module) -> bool:
    """Whether its weights are packed by bitsandbytes: that keeps state which does not move with the weights."""
    return bool(getattr(part, "is_loaded_in_8bit", False) or getattr(part, "is_loaded_in_4bit", False))
