"""What requests and answers of the OCR routes look like, for the description of the routes."""

from __future__ import annotations

from typing import NotRequired

from typing_extensions import TypedDict

from cluster.value import JsonObject
from deployments.ingress.openapi import body_model
from deployments.ocr.http.body import ALIASES, FILES, LISTS, OcrFields
from deployments.ocr.requests import Reading

DOCUMENT = "Files of a form; in JSON base64, a data: URL or an address. One of these names is needed."

DocumentBody = body_model(
    "DocumentBody",
    {**OcrFields.model_fields, **Reading.model_fields},
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


class MistralPage(TypedDict):
    index: int
    markdown: str
    images: list[MistralImage]
    dimensions: MistralDimensions
    error: NotRequired[str]


class MistralUsage(TypedDict):
    pages_processed: int
    doc_size_bytes: int


class MistralDocument(TypedDict):
    pages: list[MistralPage]
    model: str
    document_annotation: str | None
    usage_info: MistralUsage
