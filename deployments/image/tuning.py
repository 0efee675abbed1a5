"""How a loaded pipeline computes: scheduler, attention, numbers at rest, the tiles of its VAE, compilation."""

from __future__ import annotations

import logging
from typing import Any

from cluster import errors
from cluster.names import nearest, quoted
from deployments.image.options import ImageOptions

log = logging.getLogger("deployments.image")


def tune(pipe: Any, denoiser: str, options: ImageOptions, dtype: Any, device: str) -> dict[str, Any]:
    """What of it is worth telling."""
    part = getattr(pipe, denoiser)
    if options.scheduler is not None:
        pipe.scheduler = scheduler_like(pipe.scheduler, options.scheduler)
    if options.attention_slicing:
        _slice_attention(pipe, part)
    _tune_vae(pipe, options)
    if options.denoiser_quantization == "fp8":
        _store_as_fp8(part, dtype)
    facts = {"scheduler": type(pipe.scheduler).__name__}
    facts["attention_backend"] = attention_backend(part, options.attention_backend, dtype, device)
    if options.compile:
        facts["compile"] = _compile(part, is_whole=options.offload is None and not options.takes_gguf)
    return facts


# --------------------------------------------------------------------------------------------- scheduler


def scheduler_like(current: Any, name: str) -> Any:
    """A scheduler of that class with the settings of the model's own."""
    classes = scheduler_classes(current)
    if name not in classes:
        near = nearest(name, classes, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(sorted(classes))}."
        raise errors.BadOption(
            f"The model's {type(current).__name__} cannot be replaced by {quoted(name)}; {hint}", "scheduler"
        )
    return classes[name].from_config(current.config)


def scheduler_classes(current: Any) -> dict[str, Any]:
    import diffusers

    flow = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
    kinds = [getattr(diffusers, name) for name in flow] if type(current).__name__ in flow else current.compatibles
    # For those that need packages that are not there, stand-ins are named, which raise at every touch.
    usable = [kind for kind in kinds if not kind.__module__.startswith("diffusers.utils.dummy")]
    return {kind.__name__: kind for kind in (*usable, type(current))}


# --------------------------------------------------------------------------------------------- attention


def attention_backend(part: Any, wanted: str | None, dtype: Any, device: str) -> str:
    """Which one it will be: the wanted, where it is there and answers a small question; else torch's own."""
    if wanted is None or wanted == "native":
        return "native"
    _refuse_unknown_backend(wanted)
    try:
        part.set_attention_backend(wanted)
        _ask(wanted, dtype, device)
        return wanted
    # Kernels fail in as many ways as there are kernels.
    except Exception as error:
        log.warning("attention_backend %s cannot run here, so it is native: %s", wanted, error)
        part.set_attention_backend("native")
        return f"native ({wanted} cannot run here)"


def _refuse_unknown_backend(wanted: str) -> None:
    from diffusers.models.attention_dispatch import AttentionBackendName

    names = [backend.value for backend in AttentionBackendName]
    if wanted not in names:
        raise errors.BadOption(
            f"attention_backend {quoted(wanted)} is not known; there is {', '.join(names)}.", "attention_backend"
        )


def _ask(backend: str, dtype: Any, device: str) -> None:
    import torch
    from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

    with torch.no_grad():
        # Rows of one head each, as long and wide as every kernel takes them.
        rows = torch.zeros(1, 128, 1, 64, dtype=dtype, device=device)
        dispatch_attention_fn(rows, rows, rows, backend=AttentionBackendName(backend))


def _slice_attention(pipe: Any, part: Any) -> None:
    if not hasattr(part, "set_attention_slice"):
        raise errors.BadOption(
            f"{type(part).__name__} cannot compute attention in slices: leave attention_slicing out.",
            "attention_slicing",
        )
    pipe.enable_attention_slicing()


# ------------------------------------------------------------------------------------- memory and speed


def _tune_vae(pipe: Any, options: ImageOptions) -> None:
    for option, method in (("vae_tiling", "enable_tiling"), ("vae_slicing", "enable_slicing")):
        if getattr(options, option):
            vae = getattr(pipe, "vae", None)
            if not hasattr(vae, method):
                raise errors.BadOption(f"{type(vae).__name__} has no {option}: leave it out.", option)
            getattr(vae, method)()


def _store_as_fp8(part: Any, dtype: Any) -> None:
    import torch

    part.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)


def _compile(part: Any, is_whole: bool) -> str:
    """Of the blocks that repeat, one is compiled for all: minutes become seconds."""
    if getattr(part, "_repeated_blocks", None):
        # Hooks and packed weights break a block into several graphs.
        part.compile_repeated_blocks(fullgraph=is_whole, dynamic=True)
        return "blocks"
    part.compile(dynamic=True)
    return "whole"
