"""The sizes in a pipeline that determine the memory of one picture, read from its configuration. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

from cluster.value import JsonObject
from cluster.weights.inventory import Inventory

#: Side of a tile for a VAE whose configuration has no sample size, which is what diffusers takes.
TILE_SIDE = 512
#: Channels of the decoders of FLUX and SDXL, from the full size inwards, and the width of FLUX's transformer: they were
#: measured.
CHANNELS = (128, 256, 512, 512)
WIDTH = 3072
#: Numbers that one sample takes for each of its pixels in FLUX's transformer (0.46 GiB in 16 bits at 1024 x 1024), and
#: in the UNets of Stable Diffusion, whose first level has so many channels.
TRANSFORMER_NUMBERS = 240
UNET_NUMBERS, UNET_WIDTH = 120, 320
#: The longest text has 512 tokens; each of a picture's has 16 x 16 pixels.
TEXT_PIXELS = 512 * 16 * 16
#: Samples of a picture with guidance: with its prompt and without.
GUIDED = 2
#: What the decoder of a video model is told by: such a model draws a picture as a video of one frame.
VIDEO = ("QwenImage", "Wan")

#: On a card, numbers in use at the peak of decoding for a pixel and one of the decoder's channels. Of the 12, 6 were
#: counted with FLUX's and SDXL's decoders (1.5 GiB at 1024 x 1024 in 16 bits), and convolutions use as much again as
#: workspace.
ON_CARD = 12
#: The same on CPU, for one of the channels of its second level: that level's output is enlarged to full size, and is
#: there as it was, enlarged, and before and after a convolution. Measured with SDXL's at 256 to 512 pixels: 4.2 to 4.9.
ON_CPU = 5
#: The decoder of a video model keeps the last frame before each convolution, and has as many numbers besides as this
#: times its channels, with copies of its input for frames that are not there.
VIDEO_WORKS = 12
#: What else decoding a video takes on CPU, at any size: blocks between others in the heap, and oneDNN's programs.
#: Measured with 0.5 to 127 million weights at 128 to 512 pixels: 100 to 230 MB.
VIDEO_KEEPS = 230_000_000
#: Smaller blocks stay in the heap when they are freed, and only some of them are used again: so they count for more.
#: Larger ones go back to the system. It is what glibc raises its threshold to.
HEAP_BLOCK, HEAP_KEEPS = 2**25, 1.6


@dataclass(frozen=True)
class DecoderSizes:
    """What turns latents into a picture."""

    #: Channels of each level, that of the full size first.
    channels: tuple[int, ...] = CHANNELS
    #: Convolutions of each level, where the decoder is that of a video model.
    convolutions: int = 0

    def bytes(self, pixels: int, item_bytes: int, *, on_card: bool) -> int:
        first, second = self.channels[0], self.channels[min(1, len(self.channels) - 1)]
        if self.convolutions:
            numbers = VIDEO_WORKS * first + int(self._kept_frames())
            return numbers * item_bytes * pixels + (0 if on_card else VIDEO_KEEPS)
        if on_card:
            return ON_CARD * first * item_bytes * pixels
        block = second * item_bytes * pixels
        return int(ON_CPU * block * (HEAP_KEEPS if block < HEAP_BLOCK else 1))

    def _kept_frames(self) -> float:
        """Numbers for each pixel. A level has half the sides of the one before."""
        frames = (self.convolutions * channels / float(4**level) for level, channels in enumerate(self.channels))
        return sum(frames, 0.0)


@dataclass(frozen=True)
class DenoiserSizes:
    """What a picture is made by, step by step."""

    #: Numbers in use for each pixel of a sample.
    numbers: float = TRANSFORMER_NUMBERS
    #: Pixels that would take as much as the text does, which transformers have beside the picture.
    text_pixels: int = TEXT_PIXELS
    #: Of a picture: guidance makes two, which large transformers are mostly distilled from.
    samples: int = 1

    def bytes(self, pixels: int, item_bytes: int) -> int:
        """Of one sample."""
        return int(self.numbers * item_bytes * (pixels + self.text_pixels))


@dataclass(frozen=True)
class Sizes:
    #: Side of the pictures that the model was made for, and of a tile.
    side: int = 1024
    tile: int = TILE_SIDE
    decoder: DecoderSizes = DecoderSizes()
    denoiser: DenoiserSizes = DenoiserSizes()

    def decoding(self, pixels: int, item_bytes: int, *, on_card: bool, in_tiles: bool) -> int:
        """Memory of decoding one picture."""
        return self.decoder.bytes(min(pixels, self.tile**2) if in_tiles else pixels, item_bytes, on_card=on_card)

    def denoising(self, pixels: int, item_bytes: int) -> int:
        """Memory of a pass for one picture."""
        return self.denoiser.samples * self.denoiser.bytes(pixels, item_bytes)

    def samples(self, pixels: int, most_pixels: int, item_bytes: int, *, on_card: bool, in_tiles: bool) -> int:
        """How many samples of pictures of so many pixels a pass can have in the memory for one picture of the largest
        size."""
        decoding = self.decoding(most_pixels, item_bytes, on_card=on_card, in_tiles=in_tiles)
        room = max(decoding, self.denoising(most_pixels, item_bytes))
        return max(1, room // max(self.denoiser.bytes(pixels, item_bytes), 1))


def sizes_on_disk(inventory: Inventory, denoiser: str, side: int | None, vae: str) -> Sizes:
    """`vae`: the class of the decoder."""
    return sizes_of(inventory.under("vae").config(), vae, inventory.under(denoiser).config(), side)


def sizes_of(vae: Mapping[str, object], kind: str, denoiser: Mapping[str, object], side: int | None) -> Sizes:
    """By the configurations of the parts. `kind`: the class of the decoder."""
    tile = vae.get("sample_size")
    return Sizes(
        side=side or _side(denoiser, _levels(vae)),
        tile=tile if _is_size(tile) else TILE_SIDE,
        decoder=_decoder(vae, kind),
        denoiser=_denoiser(denoiser),
    )


def sizes_told(facts: JsonObject) -> Sizes:
    side = int(facts.get("resolution") or 1024)
    pipelines = str(facts.get("pipelines", ""))
    decoder = _video({}) if any(name in pipelines for name in VIDEO) else DecoderSizes()
    return Sizes(side, tile=side, decoder=decoder)


def _is_size(value: object) -> TypeGuard[int]:
    """Whether a value in a configuration file is a plausible size: memory will be claimed for it."""
    return type(value) is int and 0 < value < 100_000


def _are_sizes(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and 0 < len(values) < 10 and all(_is_size(value) for value in values)


def _decoder(config: Mapping[str, object], kind: str) -> DecoderSizes:
    if any(name in kind for name in VIDEO):
        return _video(config)
    channels = _listed(config.get("block_out_channels"))
    return DecoderSizes(tuple(channels)) if _are_sizes(channels) else DecoderSizes()


def _video(config: Mapping[str, object]) -> DecoderSizes:
    """The defaults are those of the classes."""
    base, times, blocks = config.get("base_dim"), _listed(config.get("dim_mult")), config.get("num_res_blocks")
    base = base if _is_size(base) else 96
    times = times if _are_sizes(times) else [1, 2, 4, 4]
    # One block more than in the encoder, of two convolutions each.
    convolutions = 2 * ((blocks if _is_size(blocks) else 2) + 1)
    return DecoderSizes(tuple(base * factor for factor in times), convolutions)


def _levels(vae: Mapping[str, object]) -> int:
    channels = _listed(vae.get("block_out_channels") or vae.get("dim_mult"))
    return len(channels) if _are_sizes(channels) else 1


def _denoiser(config: Mapping[str, object]) -> DenoiserSizes:
    channels = _listed(config.get("block_out_channels"))
    if _are_sizes(channels):
        return DenoiserSizes(UNET_NUMBERS * channels[0] / UNET_WIDTH, 0, GUIDED)
    heads, each = config.get("num_attention_heads"), config.get("attention_head_dim")
    if _is_size(heads) and _is_size(each):
        return DenoiserSizes(TRANSFORMER_NUMBERS * heads * each / WIDTH)
    return DenoiserSizes()


def _listed(values: object) -> object:
    """Configurations that were read have lists, and those of loaded models tuples."""
    return list(values) if isinstance(values, tuple) else values


def _side(denoiser: Mapping[str, object], levels: int) -> int:
    """The side of a picture. Denoisers give theirs in latents."""
    latents = denoiser.get("sample_size")
    return latents * 2 ** (min(levels, 8) - 1) if _is_size(latents) else 1024
