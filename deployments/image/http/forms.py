"""What a request for pictures says: its fields and files, from JSON or a multipart form alike, read once for all
dialects that ask under OpenAI's and Xinference's names."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from cluster import errors
from cluster.names import quoted
from cluster.settings import Settings
from cluster.value import JsonObject
from deployments.image.http import masks
from deployments.image.requests import MOST_SEED, Drawing
from deployments.ingress.bodies import checked
from deployments.ingress.body_reader import BodyReader, BodySchema
from deployments.ingress.media import MediaReader

#: Every name under which files come, and the field of a drawing that each is for.
FILES = {
    "image": "images",
    "image[]": "images",
    "images": "images",
    "images[]": "images",
    "mask": "mask",
    "mask_image": "mask",
    "control_image": "control_image",
}
#: Other names that clients have for fields of a drawing.
ALIASES = {
    "steps": "num_inference_steps",
    "cfg_scale": "guidance_scale",
    "sampler": "sampler_name",
    "denoising_strength": "strength",
}
#: Files of one request.
MOST_FILES = 20

#: The factor on a model's usual number of steps for each quality.
STEPS_FOR = {"low": 0.5, "medium": 1.0, "high": 1.5, "xhigh": 2.0, "max": 3.0}
#: Names of qualities that older models had, and today's name for each.
FORMER = {"auto": "medium", "standard": "medium", "hd": "high"}

#: Characters of a size.
MOST_SIZE = 40
_SIZE = re.compile(r"(\d{1,5})\s*[^\d\s]\s*(\d{1,5})")


class ImageFields(BaseModel):
    """The fields that the model does not see."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str | None = None
    size: str | None = Field(default=None, max_length=20)
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] = "auto"
    #: The background of the picture; or, as a boolean, whether the request becomes a background job.
    background: Literal["auto", "transparent", "opaque"] | bool = "auto"
    response_format: Literal["b64_json", "url"] = "b64_json"
    stream: bool = False
    request_id: str | None = Field(default=None, pattern=r"^[\w.:-]{1,128}$")
    #: Taken because OpenAI's clients send them; no model here knows the difference.
    moderation: Literal["auto", "low"] = "auto"
    style: Literal["vivid", "natural"] | None = None
    input_fidelity: Literal["high", "low"] | None = None
    user: str | None = None
    safety_identifier: str | None = None

    @property
    def in_background(self) -> bool:
        return self.background is True

    @property
    def level(self) -> str:
        """The quality in today's words."""
        return FORMER.get(self.quality, self.quality)


OPTIONS = tuple(name for name in Drawing.model_fields if name not in FILES.values())


@dataclass(frozen=True)
class ImageBody:
    """The fields, and the files by the names under which a drawing has them."""

    fields: JsonObject
    files: Mapping[str, list[bytes]]

    @classmethod
    async def of(cls, reader: BodyReader, request: Request) -> ImageBody:
        fields, uploads = await reader.read(request)
        files: dict[str, list[bytes]] = {}
        for upload in uploads:
            files.setdefault(upload.field, []).append(upload.data)
        return cls(fields, files)

    def file(self, name: str) -> bytes | None:
        files = self.files.get(name, [])
        if len(files) > 1:
            raise errors.InvalidBody(f"{name} must be one file, not {len(files)}.", name)
        return files[0] if files else None


def reader(media: MediaReader, settings: Settings) -> BodyReader:
    async def decode(value: object, name: str, index: int) -> bytes:
        return await media.file(value, name, name)

    return BodyReader(
        BodySchema(
            fields=(*ImageFields.model_fields, *OPTIONS),
            files=FILES,
            aliases=ALIASES,
            max_files=MOST_FILES,
            max_file_bytes=settings.media_bytes,
            json_in_forms=("loras", "seed"),
        ),
        decode,
    )


def options_of(fields: JsonObject) -> JsonObject:
    """What the fields say of a drawing."""
    options = {name: value for name, value in fields.items() if name in OPTIONS}
    if "size" in fields:
        width, height = size_of(fields["size"])
        options = {"width": width, "height": height, **options}
    if "seed" in options:
        options["seed"] = seed_of(options["seed"])
    if isinstance(options.get("prompt"), list) and len(options["prompt"]) == 1:
        options["prompt"] = options["prompt"][0]
    return {name: value for name, value in options.items() if value is not None}


def ask_of(fields: JsonObject) -> ImageFields:
    ask: ImageFields = checked(ImageFields, {name: value for name, value in fields.items() if name not in OPTIONS})
    return ask


def drawing_of(options: JsonObject) -> Drawing:
    try:
        drawing: Drawing = checked(Drawing, options)
    except errors.InvalidBody as error:
        # An error about the drawing as a whole begins with the name of a field.
        raise errors.InvalidBody(error.message, error.param or error.message.partition(" ")[0]) from None
    return drawing


def size_of(text: object) -> tuple[int | None, int | None]:
    """`WxH` with anything between; None where the model, or the given picture, decides."""
    if isinstance(text, str) and len(text) <= MOST_SIZE:
        if text.strip().lower() in ("auto", "original", ""):
            return None, None
        match = _SIZE.fullmatch(text.strip())
        if match:
            return int(match[1]), int(match[2])
    raise errors.InvalidBody(f"size takes auto or a width and a height such as 1024x1024, not {quoted(text)}.", "size")


def seed_of(given: object) -> Any:
    """-1 means a random seed."""
    if isinstance(given, list):
        return [secrets.randbelow(MOST_SEED) if seed == -1 else seed for seed in given]
    return None if given in (-1, "-1") else given


def steps_of(ask: ImageFields, usual: object) -> int | None:
    """Steps for a quality, from the model's usual number of them; None for just that."""
    if not isinstance(usual, int) or ask.level == "medium":
        return None
    return max(1, round(usual * STEPS_FOR[ask.level]))


async def check_pictures(files: Sequence[tuple[str, bytes]], settings: Settings) -> int:
    """Pixels of all of them together."""
    if not files:
        return 0
    for name, data in files:
        if len(data) > settings.media_bytes:
            raise errors.TooLarge(f"{name} has {len(data)} bytes, {settings.media_bytes} are allowed.", name)
    return await asyncio.to_thread(masks.pixels_of, files, settings.max_image_pixels)
