"""Seconds per picture on a GPU against the least that its arithmetic takes: FLUX.1-dev and SDXL with random weights.

    python -m benchmarks.image --gpu [--shapes flux,sdxl] [--sides 512,1024] [--batches 1,2,4,8]
        [--attention native,_native_cudnn] [--steps N] [--eager]

One process without Ray. Weights are made on the card from configurations, in bf16. The text is given as embeddings: its
encoders run once a picture. What compiles and which attention runs is decided as at a launch, and said.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deployments.image.cost import Cost, ObservedCall, counted
from deployments.image.options import ImageOptions
from deployments.image.tuning import tune

#: Dense bf16, in TFLOP/s, as the makers say.
PEAKS = {"H100": 989.4, "H200": 989.4, "B200": 2250.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0}
#: Steps of the run that compiles and warms up.
FEW = 2


@dataclass(frozen=True)
class Shape:
    name: str
    steps: int
    #: The denoiser's name in the pipeline.
    part: str
    #: Built on the device and in the numbers that are torch's default at the time.
    pipeline: Callable[[], Any]
    #: What stands for the text of so many pictures: names, and shapes behind the first number.
    text: Mapping[str, tuple[int, ...]]
    #: Samples of a picture in one step: two where guidance compares.
    samples: int = 1


def flux_denoiser() -> Any:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(guidance_embeds=True)


def sdxl_denoiser() -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=128,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(320, 640, 1280),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def _vae(latent_channels: int, **options: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=latent_channels,
        **options,
    )


def _flux() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    return FluxPipeline(
        transformer=flux_denoiser(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae(16, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1159, scaling_factor=0.3611),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
    )


def _sdxl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    return StableDiffusionXLPipeline(
        vae=_vae(4, scaling_factor=0.13025),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=sdxl_denoiser(),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
    )


FLUX_TEXT = {"prompt_embeds": (512, 4096), "pooled_prompt_embeds": (768,)}
SDXL_TEXT = {
    f"{sign}{name}": shape
    for sign in ("", "negative_")
    for name, shape in (("prompt_embeds", (77, 2048)), ("pooled_prompt_embeds", (1280,)))
}
SHAPES = {
    shape.name: shape
    for shape in (
        Shape("flux", 28, "transformer", _flux, FLUX_TEXT),
        Shape("sdxl", 50, "unet", _sdxl, SDXL_TEXT, samples=2),
    )
}


@dataclass(frozen=True)
class Card:
    name: str
    device: str
    #: TFLOP/s as the maker says, and of a large product of matrices as it is.
    peak: float | None
    measured: float

    @property
    def bound(self) -> float:
        return (self.peak or self.measured) * 1e12


@dataclass(frozen=True)
class Result:
    side: int
    batch: int
    steps: int
    first_s: float
    seconds_per_image: float
    operations: float
    peak_gb: float


def card_at(device: str) -> Card:
    import torch

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"
    peak = next((peak for word, peak in PEAKS.items() if word in name), None)
    return Card(name, device, peak, _product_speed(device, 8192 if device.startswith("cuda") else 512))


def _product_speed(device: str, side: int) -> float:
    import torch

    one = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    _timed(device, lambda: one @ one)
    return 2 * side**3 / min(_timed(device, lambda: one @ one) for _ in range(10)) / 1e12


def _timed(device: str, work: Callable[[], Any]) -> float:
    import torch

    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


class Bench:
    """One shape on the device, tuned as a launch with these options tunes it."""

    def __init__(self, shape: Shape, device: str, options: ImageOptions) -> None:
        import torch

        self._shape = shape
        self._device = device
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            with torch.device(device):
                self._pipe = shape.pipeline()
        finally:
            torch.set_default_dtype(before)
        self._pipe.set_progress_bar_config(disable=True)
        self._denoiser = getattr(self._pipe, shape.part).eval().requires_grad_(False)
        self.told = tune(self._pipe, shape.part, options, torch.bfloat16, device)

    def measure(self, side: int, batch: int, steps: int) -> Result:
        import torch

        is_cuda = self._device.startswith("cuda")
        if is_cuda:
            torch.cuda.reset_peak_memory_stats()
        cost = self.cost(side, batch)
        first_s = _timed(self._device, lambda: self._draw(side, batch, FEW))
        seconds = _timed(self._device, lambda: self._draw(side, batch, steps))
        peak = torch.cuda.max_memory_allocated() if is_cuda else 0
        return Result(side, batch, steps, first_s, seconds / batch, cost.of(side, side, steps), peak / 1e9)

    def cost(self, side: int, batch: int) -> Cost:
        """By what the denoiser is called with."""
        seen: list[tuple[Any, Any]] = []
        hook = self._denoiser.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
        )
        try:
            self._draw(side, batch, 1)
        finally:
            hook.remove()
        args, kwargs = seen[0]
        samples = self._shape.samples
        return counted(self._denoiser, [ObservedCall(side * side, args, kwargs, batch * samples)], samples)

    def _draw(self, side: int, batch: int, steps: int) -> Any:
        import torch

        text = {
            name: torch.randn(batch, *shape, device=self._device, dtype=torch.bfloat16)
            for name, shape in self._shape.text.items()
        }
        with torch.no_grad():
            return self._pipe(
                **text,
                width=side,
                height=side,
                num_inference_steps=steps,
                generator=torch.Generator("cpu").manual_seed(0),
                output_type="pt",
            ).images

    def close(self) -> None:
        import torch

        del self._pipe, self._denoiser
        gc.collect()
        torch._dynamo.reset()
        if self._device.startswith("cuda"):
            torch.cuda.empty_cache()


def variants(attention: Sequence[str], *, eager_only: bool) -> Iterator[ImageOptions]:
    """As it comes, and compiled with each kernel for attention."""
    yield ImageOptions(attention_backend=attention[0])
    if not eager_only:
        yield from (ImageOptions(attention_backend=one, compile=True) for one in attention)


def row(shape: Shape, told: Mapping[str, Any], card: Card, found: Result) -> str:
    bound = found.operations / card.bound
    return (
        f"| {shape.name} | {found.side} | {found.batch} | {told['attention_backend']} | {told.get('compile', 'no')} "
        f"| {found.steps} | {found.seconds_per_image:.3f} | {found.operations / 1e12:.0f} | {bound:.3f} "
        f"| {bound / found.seconds_per_image:.0%} | {found.first_s:.1f} | {found.peak_gb:.1f} |"
    )


HEAD = (
    "| shape | side | batch | attention | compiled | steps | s per picture | TFLOP per picture | bound s "
    "| of the bound | first run s | peak GB |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def one_variant(shape: Shape, card: Card, options: ImageOptions, asked: argparse.Namespace) -> None:
    import torch

    bench = Bench(shape, card.device, options)
    for side in asked.sides:
        for batch in asked.batches:
            try:
                found = bench.measure(side, batch, asked.steps or shape.steps)
                print(row(shape, bench.told, card, found), flush=True)
            except torch.OutOfMemoryError:
                print(f"| {shape.name} | {side} | {batch} | does not fit |||||||||", flush=True)
                torch.cuda.empty_cache()
    bench.close()


def main(words: Sequence[str]) -> None:
    import torch

    asked = _asked(words)
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("There is no GPU here that torch can use.")
    card = card_at(asked.device)
    bound = "as its maker says" if card.peak else "measured, for want of the maker's figure"
    print(
        f"{card.name}, torch {torch.__version__}; bound {card.bound / 1e12:.0f} TFLOP/s in bf16 ({bound}), "
        f"a product of large matrices reaches {card.measured:.0f}; of the denoiser alone\n\n{HEAD}"
    )
    for name in asked.shapes:
        for options in variants(asked.attention, eager_only=asked.eager):
            one_variant(SHAPES[name], card, options, asked)


def _asked(words: Sequence[str]) -> argparse.Namespace:
    def names(given: str) -> list[str]:
        return given.split(",")

    def numbers(given: str) -> list[int]:
        return [int(one) for one in given.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=names, default=list(SHAPES))
    parser.add_argument("--sides", type=numbers, default=[512, 1024])
    parser.add_argument("--batches", type=numbers, default=[1, 2, 4, 8])
    parser.add_argument("--attention", type=names, default=["native", "_native_cudnn"])
    parser.add_argument("--steps", type=int, help="instead of the model's own: 28 and 50")
    parser.add_argument("--eager", action="store_true", help="nothing is compiled")
    parser.add_argument("--device", default="cuda")
    return parser.parse_args(list(words))
