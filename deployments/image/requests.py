"""A request for pictures, checked before anything is computed, and its answer.

Every dialect fills it in the ingress, and the worker, which knows the model, checks it again. Imports no library.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from cluster.value import JsonObject

#: The most steps of one picture, whatever the model.
MOST_STEPS = 1000
MOST_SEED = 2**63 - 1
#: The longest side of a picture; a launch limits the pixels further.
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
    """A LoRA of the launch, and its scale."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    scale: Annotated[float, AfterValidator(_finite), Field(ge=-10, le=10)] = 1.0


class Drawing(BaseModel):
    """A request for pictures. None means the model's own default. The limits of sizes, scales and steps are here,
    once for all dialects."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(default="", max_length=32_000)
    negative_prompt: str | None = Field(default=None, max_length=32_000)
    n: int = Field(default=1, ge=1, le=16)
    width: int | None = Field(default=None, ge=16, le=MOST_SIDE)
    height: int | None = Field(default=None, ge=16, le=MOST_SIDE)
    num_inference_steps: int | None = Field(default=None, ge=1, le=MOST_STEPS)
    guidance_scale: Scale | None = None
    true_cfg_scale: Scale | None = None
    #: The seed of the first picture; the others take the numbers that follow. A list has one for each picture.
    seed: int | list[int] | None = None
    #: How much of the picture to start from is redrawn, up to 1.
    strength: Annotated[float, Field(gt=0, le=1), AfterValidator(_finite)] | None = None
    sampler_name: str | None = Field(default=None, max_length=100)
    max_sequence_length: int | None = Field(default=None, ge=1, le=4096)
    clip_skip: int | None = Field(default=None, ge=1, le=12)
    #: None are those that the launch puts in force for everybody.
    loras: tuple[Adapter, ...] | None = Field(default=None, max_length=8)
    #: Name of a preset: a cache makes steps cheaper and the picture slightly different.
    cache: str | None = Field(default=None, max_length=50)
    controlnet_conditioning_scale: Scale | None = None
    class_label: int | None = Field(default=None, ge=0)
    #: Files of the pictures to start from; several only for models that take them as references.
    images: tuple[bytes, ...] = Field(default=(), max_length=16)
    #: File of the mask: white is repainted, black is kept.
    mask: bytes | None = None
    #: File of the picture for a ControlNet.
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

    def params(self) -> JsonObject:
        """What is sent to the worker: only the fields that the request set."""
        return self.model_dump(exclude_unset=True)


class DrawnPicture(NamedTuple):
    """One finished picture as a file, with a receipt that has all it takes to make it again."""

    data: bytes
    format: Format
    width: int
    height: int
    seed: int
    receipt: JsonObject
