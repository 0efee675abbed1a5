"""Diffusion models with random weights: from one where Python takes the time to one that fills every core.

What a picture costs depends on shapes alone. Made on the spot, so that nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Pixels of a side that one number of the latents stands for.
SCALE = 8


@dataclass(frozen=True)
class Model:
    """What is served, and what every request for it asks."""

    name: str
    says: str
    side: int
    steps: int
    guidance: float
    make: Callable[[Path, int], Any]


def _tiny(name: str) -> Callable[[Path, int], Any]:
    def make(folder: Path, side: int) -> Any:
        from tests.pipelines import EVERY

        return EVERY[name](folder)

    return make


def _like_sd15(width: int) -> Callable[[Path, int], Any]:
    """Stable Diffusion 1.5 in all but its widths: there 320 channels, here `width`."""

    def make(folder: Path, side: int) -> Any:
        from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel

        from tests.pipeline_parts import clip_encoder, clip_tokenizer

        text = 2 * width
        return StableDiffusionPipeline(
            vae=AutoencoderKL(
                block_out_channels=[width // 4, width // 2, width, width],
                down_block_types=["DownEncoderBlock2D"] * 4,
                up_block_types=["UpDecoderBlock2D"] * 4,
                layers_per_block=2,
                latent_channels=4,
                norm_num_groups=8,
            ),
            text_encoder=clip_encoder(width=text),
            tokenizer=clip_tokenizer(),
            unet=UNet2DConditionModel(
                block_out_channels=(width, 2 * width, 4 * width, 4 * width),
                cross_attention_dim=text,
                attention_head_dim=8,
                sample_size=side // SCALE,
            ),
            scheduler=PNDMScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    return make


MODELS: Mapping[str, Model] = {
    model.name: model
    for model in (
        Model("tiny", "a UNet of 0.1 M parameters", 64, 20, 7.5, _tiny("sd15")),
        Model("flux", "a FLUX of two and two blocks, 0.5 M parameters", 64, 20, 3.5, _tiny("flux")),
        Model("medium", "a UNet of 34 M parameters, small pictures", 64, 20, 7.5, _like_sd15(64)),
        Model("medium-128", "the same at four times the pixels", 128, 20, 7.5, _like_sd15(64)),
        Model("large", "a UNet of 137 M parameters, which fills the cores", 256, 4, 7.5, _like_sd15(128)),
    )
}


def save(name: str, folder: Path) -> None:
    """As a hub would have it; the same numbers every time."""
    import torch

    torch.manual_seed(0)
    MODELS[name].make(folder, MODELS[name].side).save_pretrained(folder)
