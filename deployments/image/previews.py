"""Previews of a picture under way without the decoder: a linear map from latents to colours, fitted at the launch.

Decoding takes as long as a step or longer. Colours are very nearly a weighted sum of a latent's channels, so the
weights are fitted once, by encoding a picture that contains every colour with the model's own VAE.
"""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DiffusionPipeline
    from torch import Tensor

log = logging.getLogger("cluster.worker.worker")

#: Side of the picture to which the weights are fitted.
SIDE = 256
QUALITY = 80


class PreviewMap:
    def __init__(self, weights: Tensor, bias: Tensor) -> None:
        self._weights = weights
        self._bias = bias

    @classmethod
    def of(cls, pipe: DiffusionPipeline) -> PreviewMap | None:
        """None for models whose latents cannot be shown in this way."""
        vae = getattr(pipe, "vae", None)
        if vae is None or not hasattr(vae, "encode"):
            return None
        try:
            return cls(*_fitted(vae))
        # Autoencoders differ in many ways, and a model without previews can still be served.
        except Exception as error:
            log.info("there are no previews: %s: %s", type(error).__name__, error)
            return None

    def jpeg(self, pipe: DiffusionPipeline, latents: Tensor, height: int, width: int) -> bytes | None:
        """A preview of the first picture in a batch of latents, between two steps."""
        import torch
        from PIL import Image

        with torch.no_grad():
            grid = _as_grid(pipe, latents, height, width)
            if grid is None or grid.shape[0] != self._weights.shape[0]:
                return None
            channels = grid.reshape(grid.shape[0], -1).float()
            colours = (self._weights.to(channels.device).T @ channels).T + self._bias.to(channels.device)
            pixels = ((colours / 2 + 0.5).nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8)
            array = pixels.reshape(*grid.shape[1:], 3).cpu().numpy()
        image = Image.fromarray(array).resize((width, height), Image.Resampling.BICUBIC)
        if max(image.size) > 512:
            image.thumbnail((512, 512))
        target = io.BytesIO()
        image.save(target, "JPEG", quality=QUALITY)
        return target.getvalue()


def _fitted(vae: AutoencoderKL) -> tuple[Tensor, Tensor]:
    import torch

    with torch.no_grad():
        sample = _every_colour().to(vae.device, vae.dtype)
        is_video = (
            vae.encode.__func__.__qualname__.startswith("AutoencoderKLQwen")
            if hasattr(vae.encode, "__func__")
            else False
        )
        encoded = vae.encode(sample.unsqueeze(2) if is_video else sample)
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
        latents = _normalised(vae, latents)
        if latents.dim() == 5:
            latents = latents[:, :, 0]
        channels = latents[0].flatten(1).T.float().cpu()
        small = torch.nn.functional.adaptive_avg_pool2d(sample.float(), latents.shape[-2:])[0].flatten(1).T.cpu()
        columns = torch.cat([channels, torch.ones(len(channels), 1)], 1)
        weights = torch.linalg.lstsq(columns, small, driver="gelsd").solution
    if not torch.isfinite(weights).all():
        raise ValueError("the latents of a test picture are not finite")
    return weights[:-1], weights[-1]


def _every_colour() -> Tensor:
    """A picture of waves of the three colours in several directions, from -1 to 1, so that every mixture occurs."""
    import torch

    line = torch.linspace(0, 1, SIDE)
    across, down = line.expand(SIDE, SIDE), line[:, None].expand(SIDE, SIDE)
    waves = [
        torch.sin(6.28 * (2 * across + down)),
        torch.sin(6.28 * (3 * down - across)),
        torch.cos(6.28 * 2 * (across + down)),
    ]
    return torch.stack(waves)[None]


def _normalised(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    import torch

    config = vae.config
    if getattr(config, "latents_mean", None) and getattr(config, "latents_std", None):
        shape = (1, -1, *[1] * (latents.dim() - 2))
        mean = torch.tensor(config.latents_mean).view(shape).to(latents)
        std = torch.tensor(config.latents_std).view(shape).to(latents)
        return (latents - mean) / std
    shift = getattr(config, "shift_factor", None) or 0.0
    return (latents - shift) * (getattr(config, "scaling_factor", None) or 1.0)


def _as_grid(pipe: DiffusionPipeline, latents: Tensor, height: int, width: int) -> Tensor | None:
    """Latents as channels by rows by columns, whatever layout the pipeline has; None for an unknown layout."""
    if latents.dim() == 3 and hasattr(pipe, "_unpack_latents"):
        latents = pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)
    if latents.dim() == 5:
        latents = latents[:, :, 0]
    return latents[0] if latents.dim() == 4 else None
