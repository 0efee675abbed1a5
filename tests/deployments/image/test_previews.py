"""Previews of unfinished pictures, made without the decoder."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline, QwenImagePipeline
from PIL import Image

from deployments.image.previews import PreviewMap
from tests.pipeline_parts import flow_vae, vae


class Latents:
    def __init__(self, mode: torch.Tensor) -> None:
        self._mode = mode

    def mode(self) -> torch.Tensor:
        return self._mode


class Carrying(torch.nn.Module):  # type: ignore[misc]
    """An encoder whose latents are the picture itself, eight times smaller, in a mixture of sixteen channels."""

    def __init__(self, shift: float = 0.0, scale: float = 1.0, **config: Any) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.mixture = torch.nn.Parameter(torch.randn(16, 3, generator=generator))
        self.config = SimpleNamespace(shift_factor=shift, scaling_factor=scale, **config)
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def encode(self, sample: torch.Tensor) -> Any:
        small = torch.nn.functional.avg_pool2d(sample, 8)
        mixed = torch.einsum("oc,bchw->bohw", self.mixture, small)
        return SimpleNamespace(latent_dist=Latents(mixed))

    def latents(self, pixels: torch.Tensor) -> torch.Tensor:
        """The latents in the form that a pipeline has them."""
        with torch.no_grad():
            return (self.encode(pixels).latent_dist.mode() - self.config.shift_factor) * self.config.scaling_factor


def landscape(width: int, height: int) -> torch.Tensor:
    """A blue sky over a green hill, -1 to 1."""
    across, down = (
        torch.linspace(0, 1, width).expand(height, width),
        torch.linspace(0, 1, height)[:, None].expand(height, width),
    )
    hill = (down > 0.5 + 0.2 * torch.sin(6 * across)).float()
    return torch.stack([0.2 * hill, 0.3 + 0.5 * hill, 1 - 0.8 * hill])[None] * 2 - 1


def shown(previews: PreviewMap, pipe: Any, latents: torch.Tensor, width: int, height: int) -> Any:
    data = previews.jpeg(pipe, latents, height, width)
    assert data is not None
    found = Image.open(io.BytesIO(data))
    assert found.format == "JPEG"
    return found


def alike(image: Any, pixels: torch.Tensor) -> float:
    """How well the colours of two pictures correlate; 1 if they are the same."""
    wanted = pixels[0].permute(1, 2, 0).numpy()
    return float(np.corrcoef(np.asarray(image, dtype=float).ravel(), wanted.ravel())[0, 1])


@pytest.mark.parametrize("factors", [{}, {"shift": 0.1159, "scale": 0.3611}])
@pytest.mark.parametrize(("width", "height"), [(256, 128), (64, 64)])
def test_a_preview_resembles_its_picture(factors: dict[str, float], width: int, height: int) -> None:
    vae, pixels = Carrying(**factors), landscape(width, height)
    previews = PreviewMap.of(SimpleNamespace(vae=vae))
    assert previews is not None
    image = shown(previews, SimpleNamespace(), vae.latents(pixels), width, height)
    assert image.size == (width, height)
    assert alike(image, pixels) > 0.97


def test_latents_laid_out_in_patches_are_put_back() -> None:
    vae, pixels = Carrying(), landscape(96, 64)
    previews = PreviewMap.of(SimpleNamespace(vae=vae))
    assert previews is not None
    packed = FluxPipeline._pack_latents(vae.latents(pixels), 1, 16, 8, 12)
    pipe = SimpleNamespace(_unpack_latents=FluxPipeline._unpack_latents, vae_scale_factor=8)
    image = shown(previews, pipe, packed, 96, 64)
    assert image.size == (96, 64)
    assert alike(image, pixels) > 0.97


def test_latents_of_one_frame_of_a_film_are_a_picture() -> None:
    vae, pixels = Carrying(), landscape(64, 64)
    previews = PreviewMap.of(SimpleNamespace(vae=vae))
    assert previews is not None
    packed = QwenImagePipeline._pack_latents(vae.latents(pixels), 1, 16, 8, 8)
    pipe = SimpleNamespace(_unpack_latents=QwenImagePipeline._unpack_latents, vae_scale_factor=8)
    assert alike(shown(previews, pipe, packed, 64, 64), pixels) > 0.97


def test_mean_and_deviation_of_latents_are_undone() -> None:
    vae = Carrying(latents_mean=[0.5] * 16, latents_std=[2.0] * 16)
    pixels = landscape(64, 64)
    previews = PreviewMap.of(SimpleNamespace(vae=vae))
    assert previews is not None
    assert alike(shown(previews, SimpleNamespace(), (vae.latents(pixels) - 0.5) / 2.0, 64, 64), pixels) > 0.97


def test_a_large_picture_has_a_small_preview() -> None:
    vae = Carrying()
    previews = PreviewMap.of(SimpleNamespace(vae=vae))
    assert previews is not None
    assert shown(previews, SimpleNamespace(), vae.latents(landscape(1024, 512)), 1024, 512).size == (512, 256)


def test_noise_that_overflowed_is_still_a_picture() -> None:
    vae = Carrying()
    previews = PreviewMap.of(SimpleNamespace(vae=vae))
    assert previews is not None
    latents = torch.full((1, 16, 4, 4), float("nan"))
    assert shown(previews, SimpleNamespace(), latents, 32, 32).size == (32, 32)


def test_latents_of_another_kind_have_none() -> None:
    vae = Carrying()
    previews = PreviewMap.of(SimpleNamespace(vae=vae))
    assert previews is not None
    assert previews.jpeg(SimpleNamespace(), torch.zeros(1, 4, 8, 8), 64, 64) is None
    assert previews.jpeg(SimpleNamespace(), torch.zeros(1, 64, 16), 64, 64) is None


def test_a_model_without_an_encoder_has_none() -> None:
    assert PreviewMap.of(SimpleNamespace(vae=None)) is None
    assert PreviewMap.of(SimpleNamespace()) is None


def test_an_encoder_that_fails_is_no_reason_not_to_serve() -> None:
    class Broken(Carrying):
        def encode(self, sample: torch.Tensor) -> Any:
            raise RuntimeError("needs a GPU")

    assert PreviewMap.of(SimpleNamespace(vae=Broken())) is None


@pytest.mark.parametrize("make", [vae, lambda: flow_vae(0.1, 0.4)])
def test_the_librarys_own_encoders_can_be_read(make: Any) -> None:
    assert PreviewMap.of(SimpleNamespace(vae=make())) is not None
