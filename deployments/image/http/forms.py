"""What a request for pictures says: its fields and files, from JSON or a multipart form alike, read once for all
dialects that ask under OpenAI's and Xinference's names."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import UploadFile

from cluster import errors
from cluster.names import cut, nearest, quoted
from cluster.settings import Settings
from deployments.image.http import masks
from deployments.image.requests import MOST_SEED, Drawing
from deployments.ingress.bodies import checked, form_of, inner_json, json_body
from deployments.ingress.media import Media

#: Every name under which files come, and the field of a drawing that they are.
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
#: Fields that a form can only hold as JSON.
AS_JSON = ("kwargs", "extra_body", "loras", "seed")
#: Parts of a form.
MOST_FILES = 20
MOST_FIELDS = 100

#: How many of its usual steps a model takes for a quality.
STEPS_FOR = {"low": 0.5, "medium": 1.0, "high": 1.5, "xhigh": 2.0, "max": 3.0}
#: Qualities of retired models, and what they are now.
FORMER = {"auto": "medium", "standard": "medium", "hd": "high"}

#: Characters of a size.
MOST_SIZE = 40
_SIZE = re.compile(r"(\d{1,5})\s*[^\d\s]\s*(\d{1,5})")


class Ask(BaseModel):
    """The fields that are not the model's affair."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str | None = None
    size: str | None = Field(default=None, max_length=20)
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] = "auto"
    #: What is behind the things in the picture, or, as a boolean, whether to work on it in the background.
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
KNOWN = (*Ask.model_fields, *OPTIONS, *ALIASES, *FILES, "kwargs", "extra_body")


@dataclass(frozen=True)
class Brought:
    """The fields, and the files by the names under which a drawing has them."""

    fields: dict[str, Any]
    files: dict[str, list[bytes]] = field(default_factory=dict)

    def file(self, name: str) -> bytes | None:
        found = self.files.get(name, [])
        if len(found) > 1:
            raise errors.InvalidBody(f"{name} must be one file, not {len(found)}.", name)
        return found[0] if found else None


async def read(request: Request, settings: Settings, media: Media) -> Brought:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_form = kind in ("multipart/form-data", "application/x-www-form-urlencoded")
    pairs = await _form(request, settings) if is_form else _pairs(await json_body(request))
    fields: dict[str, Any] = {}
    files: dict[str, list[bytes]] = {}
    for name, value in pairs:
        if name not in KNOWN:
            raise unknown(name)
        if name in FILES:
            found = value if isinstance(value, bytes) else await _decoded(value, name, media)
            files.setdefault(FILES[name], []).append(found)
        elif isinstance(value, bytes):
            raise errors.InvalidBody(f"{name} must be text, not a file.", name)
        else:
            fields[name] = value
    return Brought(_flat(fields), files)


def unknown(name: str) -> errors.InvalidBody:
    near = nearest(name, KNOWN)
    hint = f"did you mean {near[0]!r}?" if near else f"there is {', '.join(sorted(KNOWN))}."
    return errors.InvalidBody(f"There is no field {quoted(name)}; {hint}", cut(name))


def _pairs(body: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Null is what is not given; several files may be one field."""
    return [
        (name, value)
        for name, given in body.items()
        if given is not None
        for value in (given if name in FILES and isinstance(given, list) else [given])
    ]


async def _form(request: Request, settings: Settings) -> list[tuple[str, Any]]:
    # A picture may also be a text of base64.
    most = settings.media_bytes * 4 // 3 + 1000
    async with form_of(request, MOST_FILES, MOST_FIELDS, most) as form:
        given = [(name, await _content(name, value, settings)) for name, value in form.multi_items()]
    # Clients send what was left empty.
    return [(name, _from_text(name, value)) for name, value in given if value not in ("", "null")]


async def _content(name: str, value: UploadFile | str, settings: Settings) -> Any:
    if isinstance(value, str):
        return value
    if (value.size or 0) > settings.media_bytes:
        raise errors.TooLarge(f"{name} has {value.size} bytes, {settings.media_bytes} are allowed.", name)
    return await value.read()


def _from_text(name: str, value: Any) -> Any:
    if name not in AS_JSON or not isinstance(value, str):
        return value
    return inner_json(value, name)


async def _decoded(value: Any, name: str, media: Media) -> bytes:
    """A picture within JSON: a data URI, base64, or an object that holds one."""
    if isinstance(value, Mapping):
        value = value.get("image_url")
        value = value.get("url") if isinstance(value, Mapping) else value
    if not isinstance(value, str):
        raise errors.InvalidBody(f"{name} must be a data URI, or an object whose image_url is one.", name)
    (found,) = await media.read([{"image": value}], name)
    picture: bytes = found["image"]
    return picture


def _flat(fields: dict[str, Any]) -> dict[str, Any]:
    """What clients nest, beside what they do not, under one name each; what stands outside counts."""
    nested: dict[str, Any] = {}
    for name in ("kwargs", "extra_body"):
        within = fields.pop(name, None)
        within = _from_text(name, within) if within else {}
        if not isinstance(within, Mapping):
            raise errors.InvalidBody(f"{name} must be an object, as such or as a text of JSON.", name)
        for inner in within:
            if inner not in KNOWN or inner in FILES:
                raise unknown(str(inner))
        nested |= {inner: value for inner, value in within.items() if value is not None}
    return {ALIASES.get(name, name): value for name, value in {**nested, **fields}.items()}


def options_of(fields: Mapping[str, Any]) -> dict[str, Any]:
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


def ask_of(fields: Mapping[str, Any]) -> Ask:
    asked: Ask = checked(Ask, {name: value for name, value in fields.items() if name not in OPTIONS})
    return asked


def drawing_of(options: Mapping[str, Any]) -> Drawing:
    try:
        found: Drawing = checked(Drawing, options)
    except errors.InvalidBody as error:
        # What is said of a drawing as a whole begins with the field that it is about.
        raise errors.InvalidBody(error.message, error.param or error.message.partition(" ")[0]) from None
    return found


def size_of(text: Any) -> tuple[int | None, int | None]:
    """`WxH` with anything between; None where the model, or the given picture, decides."""
    if isinstance(text, str) and len(text) <= MOST_SIZE:
        if text.strip().lower() in ("auto", "original", ""):
            return None, None
        found = _SIZE.fullmatch(text.strip())
        if found:
            return int(found[1]), int(found[2])
    raise errors.InvalidBody(f"size takes auto or a width and a height such as 1024x1024, not {quoted(text)}.", "size")


def seed_of(given: Any) -> Any:
    """-1 is any."""
    if isinstance(given, list):
        return [secrets.randbelow(MOST_SEED) if seed == -1 else seed for seed in given]
    return None if given in (-1, "-1") else given


def steps_of(ask: Ask, usual: Any) -> int | None:
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
