"""Where the parts of a loaded pipeline live: on their device, or in main memory until they are needed."""

from __future__ import annotations

from typing import Any

from deployments.image.options import ImageOptions


def place(pipe: Any, denoiser: str, options: ImageOptions, device: str) -> None:
    if options.offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif options.offload is not None:
        _offload_groups(pipe, denoiser if options.offload == "group" else "", device)
    elif device == "cpu" or options.device_map == "cpu":
        pipe.to("cpu")
    elif options.device_map != "balanced":
        pipe.to(device)


def _offload_groups(pipe: Any, in_blocks: str, device: str) -> None:
    """Layer by layer; the denoiser by its blocks where that is asked for. Quantised parts stay where they run.

    Not diffusers' sequential offload, which cannot take every kind of parameter; this is as frugal. Only whole layers
    of the VAE: its decoder is called past the module whose hook would bring in a block.
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


def is_packed(part: Any) -> bool:
    """Whether bitsandbytes holds it, whose state beside the weights would not move with them."""
    return bool(getattr(part, "is_loaded_in_8bit", False) or getattr(part, "is_loaded_in_4bit", False))
