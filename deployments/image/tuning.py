"""How a loaded pipeline computes: its scheduler, attention, storage format, the tiles of its VAE, and compilation."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from cluster import errors
from cluster.names import nearest, quoted
from cluster.value import JsonObject
from deployments.image.options import ImageOptions

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
    from torch import dtype as Dtype

log = logging.getLogger("deployments.image")


def tune(pipe: DiffusionPipeline, denoiser: str, options: ImageOptions, dtype: Dtype, device: str) -> JsonObject:
    """Applies the options of the launch and returns facts about the result."""
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


def scheduler_like(current: SchedulerMixin, name: str) -> SchedulerMixin:
    """A scheduler of that class, with the settings of the model's own."""
    classes = scheduler_classes(current)
    if name not in classes:
        near = nearest(name, classes, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(sorted(classes))}."
        raise errors.BadOption(
            f"The model's {type(current).__name__} cannot be replaced by {quoted(name)}; {hint}", "scheduler"
        )
    return classes[name].from_config(current.config)


def scheduler_classes(current: SchedulerMixin) -> dict[str, type[SchedulerMixin]]:
    import diffusers

    flow = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
    kinds = [getattr(diffusers, name) for name in flow] if type(current).__name__ in flow else current.compatibles
    # Classes that need a missing package are placeholders that raise whenever they are used.
    usable = [kind for kind in kinds if not kind.__module__.startswith("diffusers.utils.dummy")]
    return {kind.__name__: kind for kind in (*usable, type(current))}


# --------------------------------------------------------------------------------------------- attention


def attention_backend(part: ModelMixin, wanted: str | None, dtype: Dtype, device: str) -> str:
    """The backend that is used: the wanted one if it is installed and passes a small computation, else torch's own."""
    if wanted is None or wanted == "native":
        return "native"
    _refuse_unknown_backend(wanted)
    try:
        part.set_attention_backend(wanted)
        _ask(wanted, dtype, device)
        return wanted
    # Every kernel fails in its own way.
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


def _ask(backend: str, dtype: Dtype, device: str) -> None:
    import torch
    from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

    with torch.no_grad():
        # One head, of a length and width that every kernel can compute.
        rows = torch.zeros(1, 128, 1, 64, dtype=dtype, device=device)
        dispatch_attention_fn(rows, rows, rows, backend=AttentionBackendName(backend))


def _slice_attention(pipe: DiffusionPipeline, part: ModelMixin) -> None:
    if not hasattr(part, "set_attention_slice"):
        raise errors.BadOption(
            f"{type(part).__name__} cannot compute attention in slices: leave attention_slicing out.",
            "attention_slicing",
        )
    pipe.enable_attention_slicing()


# ------------------------------------------------------------------------------------- memory and speed


def _tune_vae(pipe: DiffusionPipeline, options: ImageOptions) -> None:
    for option, method in (("vae_tiling", "enable_tiling"), ("vae_slicing", "enable_slicing")):
        if getattr(options, option):
            vae = getattr(pipe, "vae", None)
            if not hasattr(vae, method):
                raise errors.BadOption(f"{type(vae).__name__} has no {option}: leave it out.", option)
            getattr(vae, method)()


def _store_as_fp8(part: ModelMixin, dtype: Dtype) -> None:
    import torch

    part.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)


def _compile(part: ModelMixin, is_whole: bool) -> str:
    """Compiles one of the repeated blocks for all of them, which takes seconds instead of minutes."""
    if getattr(part, "_repeated_blocks", None):
        # Hooks and packed weights split a block into several graphs, so fullgraph would fail.
        part.compile_repeated_blocks(fullgraph=is_whole, dynamic=True)
        return "blocks"
    part.compile(dynamic=True)
    return "whole"
