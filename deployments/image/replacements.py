"""Every method that is replaced at run time on a loaded pipeline, and why.

The pipelines of diffusers are written for one caller who owns all of their parts. Here every request runs a pipeline
object of its own, and all of them share the parts: denoiser, VAE and encoders. What the library's code would do to a
shared part is caught at these methods. They are replaced on the objects of this model; the library's classes stay as
they are. Only this module replaces methods.

`denoiser.forward` (`share_denoiser`)
    A call waits in the queue instead of running, so that calls of several requests become one forward pass. A module
    that was compiled as a whole (`module.compile()`) calls its compiled function and never looks at `forward`: that
    function is dropped, and the original `forward` is compiled instead. The original is what passes run.

`denoiser.cache_context` (`share_denoiser`)
    Pipelines open it around each call to tell a cache which call of the step it is, with or without the prompt. The
    library stores the name on the denoiser, where one request would overwrite the name of another. So the name is kept
    with the request, and the original is entered only for a pass of a request that has a cache.

`vae.to` (`share_vae`)
    Some pipelines move their VAE to float32 to decode and back afterwards, while another request may be decoding. The
    number format is fixed once, at launch, and only moves to another device are still carried out: offloading needs
    them.

`vae.encode`, `vae.decode` (`share_vae`)
    They run in the compute thread, one at a time, because tiling and slicing keep state in the VAE. Since the VAE does
    not change its number format any more, the input is converted to it.

`pipeline.encode_prompt` (`share_prompt_encoders`)
    Replaced on each request's own pipeline object. Runs in the compute thread, puts the request's LoRAs in force on
    the text encoders first, and remembers results: interfaces ask for the same prompt again, and `n` pictures share it.

Two more things of the library are changed, without replacing a method: `tasks.own_pipeline` makes a subclass whose
`_execution_device` is a constant (the library's property looks through all parts at every access), and
`quantised.allowed_without_gpu` exchanges two entries of a table for the time of one load and puts them back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from deployments.image.fibers import ComputeThread
from deployments.image.tensors import Argument

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DiffusionPipeline, ModelMixin
    from torch import Tensor

Forward = Callable[..., Argument]
CacheContext = Callable[..., AbstractContextManager[None]]


class DenoiserMethods(NamedTuple):
    """A denoiser's own methods, which others stand in for."""

    forward: Forward
    #: None where the library cannot cache this denoiser.
    cache_context: CacheContext | None


def share_denoiser(
    module: ModelMixin, forward: Forward, note_context: Callable[[tuple[str, dict[str, Argument]] | None], None]
) -> DenoiserMethods:
    """Puts `forward` in the place of the denoiser's own, and has `note_context` called with the name and the arguments
    of each cache context, and with None after it."""
    import torch

    own = DenoiserMethods(module.forward, getattr(module, "cache_context", None))
    if getattr(module, "_compiled_call_impl", None) is not None:
        module._compiled_call_impl = None
        own = own._replace(forward=torch.compile(own.forward, dynamic=True))
    module.forward = forward
    if own.cache_context is not None:

        @contextmanager
        def cache_context(name: str, **arguments: Argument) -> Iterator[None]:
            note_context((name, arguments))
            try:
                yield
            finally:
                note_context(None)

        module.cache_context = cache_context
    return own


def share_vae(vae: AutoencoderKL, compute: ComputeThread) -> None:
    import torch

    move = vae.to
    # Half precision overflows in some VAEs; their own pipelines avoid that by moving them to float32 and back.
    if vae.dtype is torch.float16 and getattr(vae.config, "force_upcast", False):
        move(torch.float32)

    def move_only(*args: Argument, **kwargs: Argument) -> AutoencoderKL:
        devices = [value for value in (*args, *kwargs.values()) if isinstance(value, (str, int, torch.device))]
        return move(devices[0]) if devices else vae

    vae.to = move_only
    turn = threading.Lock()
    for name in ("encode", "decode"):
        if hasattr(vae, name):
            setattr(vae, name, partial(compute.run, _one_at_a_time(getattr(vae, name), vae, turn)))


def _one_at_a_time(work: Forward, vae: AutoencoderKL, turn: threading.Lock) -> Forward:
    def alone(first: Tensor, *args: Argument, **kwargs: Argument) -> Argument:
        with turn:
            return work(first.to(vae.dtype), *args, **kwargs)

    return alone


def share_prompt_encoders(
    pipeline: DiffusionPipeline, compute: ComputeThread, remember: Callable[[Forward], Forward]
) -> None:
    """`remember` makes an `encode_prompt` that keeps results out of one that does not. Pipelines that draw classes
    instead of prompts have none."""
    if hasattr(pipeline, "encode_prompt"):
        pipeline.encode_prompt = partial(compute.run, remember(pipeline.encode_prompt))
