"""What requests and answers of the OCR routes look like, for the description of the routes."""

from __future__ import annotations

from typing import Any, NotRequired

from pydantic import BaseModel, Field, create_model
from typing_extensions import TypedDict

from cluster.value import JsonObject
from deployments.ocr.http.body import FILES, OcrFields
from deployments.ocr.requests import Reading

DOCUMENT = "Files of a form; in JSON base64, a data: URL or an address. One of these names is needed."
Papers = str | list[str]


def _body() -> type[BaseModel]:
    """What is read of a page and what the routes take beside it, and the files by the names they come under."""
    fields: dict[str, Any] = {name: (field.annotation, field) for name, field in Reading.model_fields.items()}
    for name in ("languages", "features"):
        field = Reading.model_fields[name]
        # A form holds several values as one text with commas.
        fields[name] = (field.annotation | str, field) if field.annotation is not None else fields[name]
    fields |= {name: (Papers | None, Field(default=None, description=DOCUMENT)) for name in FILES}
    return create_model("DocumentBody", __base__=OcrFields, **fields)


DocumentBody = _body()


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
