"""What one request for pictures asks, checked before anything is computed, and what is answered.

Read at the ingress, where a dialect fills it, and once more by the worker, which knows the model. Knows of no library.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

#: Most steps of one picture, whatever the model: nobody waits for more.
MOST_STEPS = 1000
MOST_SEED = 2**63 - 1
#: Longest side that is taken; a launch bounds the pixels more tightly.
MOST_SIDE = 16_384
MOST_PREVIEWS = 3

Format = Literal["png", "jpeg", "webp"]
Task = Literal["text2image", "image2image", "inpainting"]


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("it must be a finite number")
    return value


Finite = Annotated[float, AfterValidator(_finite)]
Scale = Annotated[float, AfterValidator(_finite), Field(ge=0, le=100)]


class Adapter(BaseModel):
    """A LoRA of the launch, and how strongly it counts."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    scale: Annotated[float, AfterValidator(_finite), Field(ge=-10, le=10)] = 1.0


class Drawing(BaseModel):
    """None means: as the model does it. Sizes, scales and steps are bounded here, once for all dialects."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(default="", max_length=32_000)
    negative_prompt: str | None = Field(default=None, max_length=32_000)
    n: int = Field(default=1, ge=1, le=16)
    width: int | None = Field(default=None, ge=16, le=MOST_SIDE)
    height: int | None = Field(default=None, ge=16, le=MOST_SIDE)
    num_inference_steps: int | None = Field(default=None, ge=1, le=MOST_STEPS)
    guidance_scale: Scale | None = None
    true_cfg_scale: Scale | None = None
    #: Of the first picture; the others take the numbers that follow. A list has one for each.
    seed: int | list[int] | None = None
    #: How much of a given picture is redrawn.
    strength: Annotated[float, Field(gt=0, le=1), AfterValidator(_finite)] | None = None
    sampler_name: str | None = Field(default=None, max_length=100)
    max_sequence_length: int | None = Field(default=None, ge=1, le=4096)
    clip_skip: int | None = Field(default=None, ge=1, le=12)
    loras: tuple[Adapter, ...] = Field(default=(), max_length=8)
    #: A cache that makes steps cheaper and the picture slightly another, by the name of a preset.
    cache: str | None = Field(default=None, max_length=50)
    controlnet_conditioning_scale: Scale | None = None
    class_label: int | None = Field(default=None, ge=0)
    #: Pictures to start from, as files; several only for models that edit by reference.
    images: tuple[bytes, ...] = Field(default=(), max_length=16)
    #: White is repainted, black is kept, as a file.
    mask: bytes | None = None
    #: What a ControlNet reads, as a file.
    control_image: bytes | None = None
    partial_images: int = Field(default=0, ge=0, le=MOST_PREVIEWS)
    output_format: Format = "png"
    #: Quality of JPEG and WebP.
    output_compression: int = Field(default=95, ge=0, le=100)

    @model_validator(mode="after")
    def _seeds_fit(self) -> Drawing:
        seeds = self.seed if isinstance(self.seed, list) else [] if self.seed is None else [self.seed]
        if any(not 0 <= seed <= MOST_SEED for seed in seeds):
            raise ValueError(f"seed takes numbers from 0 to {MOST_SEED}")
        if isinstance(self.seed, list) and len(self.seed) != self.n:
            raise ValueError(f"seed has {len(self.seed)} numbers for {self.n} pictures")
        return self

    def params(self) -> dict[str, Any]:
        """What travels to the worker: what was asked, and nothing that was not."""
        return self.model_dump(exclude_unset=True)


class DrawnPicture(NamedTuple):
    """One finished picture, as a file, and all it takes to make it again."""

    data: bytes
    format: Format
    width: int
    height: int
    seed: int
    receipt: dict[str, Any]
