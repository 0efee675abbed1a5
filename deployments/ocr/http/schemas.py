"""What requests and answers of the OCR routes look like, for the description of the routes."""

from __future__ import annotations

from typing import NotRequired

from pydantic.fields import FieldInfo
from typing_extensions import TypedDict

from cluster.value import JsonObject
from deployments.ingress.openapi import ErrorDetail, body_model
from deployments.ocr.http import xinference
from deployments.ocr.http.body import ALIASES, FILES, LISTS, OcrFields
from deployments.ocr.requests import Reading

DOCUMENT = "Files of a form; in JSON base64, a data: URL or an address. One of these names is needed."

OF_XINFERENCE = FieldInfo(
    annotation=JsonObject | str | float | bool, default=None, description="As Xinference's models take it."
)

DocumentBody = body_model(
    "DocumentBody",
    {**OcrFields.model_fields, **Reading.model_fields, **dict.fromkeys(xinference.OPTIONS, OF_XINFERENCE)},
    aliases=ALIASES,
    files={name: DOCUMENT for file in FILES for name in (file, f"{file}[]")},
    lists=LISTS,
)


class ReadUsage(TypedDict):
    pages: int
    prompt_tokens: int
    output_tokens: int


class ReadPage(TypedDict):
    page: int
    width: int
    height: int
    dpi: float | None
    angle: float
    blocks: list[JsonObject]
    markdown: str
    text: str
    usage: ReadUsage
    truncated: NotRequired[bool]
    repetition: NotRequired[bool]
    error: NotRequired[str]
    file: str
    file_page: int


class ReadDocument(TypedDict):
    pages: list[ReadPage]
    markdown: str
    text: str
    usage: ReadUsage
    model: str


class EncodedFile(TypedDict):
    b64_json: str
    output_format: str


class MistralDimensions(TypedDict):
    dpi: int
    height: int
    width: int


class MistralImage(TypedDict):
    id: str
    top_left_x: int
    top_left_y: int
    bottom_right_x: int
    bottom_right_y: int
    image_base64: str | None
    image_annotation: str | None


class MistralTable(TypedDict):
    id: str
    content: str
    format: str


class MistralPage(TypedDict):
    index: int
    markdown: str
    images: list[MistralImage]
    tables: list[MistralTable]
    hyperlinks: list[str]
    header: str | None
    footer: str | None
    dimensions: MistralDimensions
    blocks: NotRequired[list[JsonObject]]
    confidence_scores: NotRequired[JsonObject | None]
    error: NotRequired[str]


class MistralUsage(TypedDict):
    pages_processed: int
    doc_size_bytes: int


class MistralDocument(TypedDict):
    pages: list[MistralPage]
    model: str
    document_annotation: str | None
    usage_info: MistralUsage


class MistralProblem(TypedDict):
    loc: list[str | int]
    msg: str
    type: str


class MistralError(TypedDict):
    """An error as Mistral's clients read it, and those that read ours."""

    #: A list where the body is wrong.
    detail: str | list[MistralProblem]
    error: ErrorDetail
    object: str
    message: str
    type: str
    param: str | None
    code: str
