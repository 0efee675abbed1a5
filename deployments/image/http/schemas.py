"""What requests and answers of the image routes look like, for the description of the routes."""

from __future__ import annotations

from typing_extensions import TypedDict

from cluster.value import JsonObject
from deployments.image.http.forms import ALIASES, FILES, OPTIONS, ImageFields
from deployments.image.requests import Drawing
from deployments.ingress.openapi import body_model

PICTURE = "A file of a form; in JSON base64, a data: URL or an address."

PictureBody = body_model(
    "PictureBody",
    {**ImageFields.model_fields, **{name: Drawing.model_fields[name] for name in OPTIONS}},
    aliases=ALIASES,
    files=dict.fromkeys(FILES, PICTURE),
)


class PictureRow(TypedDict):
    b64_json: str | None
    url: str | None
    seed: int
    receipt: JsonObject
    revised_prompt: str | None


class PictureTokens(TypedDict):
    text_tokens: int
    image_tokens: int


class PictureUsage(TypedDict):
    input_tokens: int
    input_tokens_details: PictureTokens
    output_tokens: int
    output_tokens_details: PictureTokens
    total_tokens: int


class PicturesAnswer(TypedDict):
    created: int
    background: str
    output_format: str
    quality: str
    size: str
    data: list[PictureRow]
    usage: PictureUsage


class WebUiPictures(TypedDict):
    images: list[str]
    parameters: JsonObject
    #: JSON again.
    info: str


class WebUiOptions(TypedDict):
    sd_model_checkpoint: str | None
    samples_format: str


class WebUiModel(TypedDict):
    title: str
    model_name: str
    filename: str
    hash: str | None
    sha256: str | None
    config: str | None


class WebUiSampler(TypedDict):
    name: str
    aliases: list[str]
    options: JsonObject


class WebUiScheduler(TypedDict):
    name: str
    label: str
    aliases: list[str]


class WebUiLora(TypedDict):
    name: str
    alias: str
    path: str
    metadata: JsonObject


class WebUiRam(TypedDict):
    free: int
    used: int
    total: int


class WebUiMemory(TypedDict):
    ram: WebUiRam
    cuda: JsonObject


class WebUiProgress(TypedDict):
    progress: float
    eta_relative: float
    state: JsonObject
    current_image: str | None
    textinfo: str | None


class WebUiInfo(TypedDict):
    info: str
    items: dict[str, str]
    parameters: dict[str, str]
