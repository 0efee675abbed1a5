"""What a request for text says: its fields and files, from JSON or a multipart form alike."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Request
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from cluster import errors
from cluster.settings import Settings
from cluster.value import JsonObject
from deployments.ingress.bodies import checked
from deployments.ingress.body_reader import BodyReader, BodySchema, Upload
from deployments.ingress.media import MediaReader
from deployments.ocr.http import xinference
from deployments.ocr.http.documents import DocumentFile
from deployments.ocr.requests import Reading

#: Every name under which files come.
FILES = ("image", "images", "file", "files", "document", "documents")
#: Other names that clients have for fields.
ALIASES = {"language": "languages", "lang": "languages", "ocr_box": "region", "threshold": "min_score"}
#: Fields of several values, which a form and a command line hold as one text with commas.
LISTS = ("languages", "features")
MOST_LISTED = 10_000
#: Characters of a region that is written as text.
MOST_CORNERS = 100
#: Names that clients send for files that have none.
NAMELESS = ("", "image", "file", "blob", "upload")

#: `3`, `"1-3,7"`, or a list of such.
Pages = (
    int
    | Annotated[str, Field(max_length=100_000)]
    | Annotated[list[int | Annotated[str, Field(max_length=100)]], Field(max_length=10_000)]
)
Format = Literal["text", "json", "markdown", "html", "hocr", "tsv", "pdf"]


def _corners(value: object) -> object:
    """`[1, 2, 3, 4]`, as such, as text, or with commas only."""
    return value.strip(" []()").split(",") if isinstance(value, str) and len(value) <= MOST_CORNERS else value


def _some_pixels(corners: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    left, top, right, bottom = corners
    if left >= right or top >= bottom:
        raise ValueError("it takes left, top, right and bottom, the last two being larger")
    return corners


Pixel = Annotated[int, Field(ge=0, le=1_000_000)]
Region = Annotated[tuple[Pixel, Pixel, Pixel, Pixel], BeforeValidator(_corners), AfterValidator(_some_pixels)]


class OcrFields(BaseModel):
    """The fields that the model does not see."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str | None = None
    output_format: Format = "text"
    #: For a PDF: the file itself, or within JSON.
    response_format: Literal["file", "b64_json"] = "file"
    #: From 1 and through all files of the request.
    pages: Pages | None = None
    #: At which the pages of a PDF are drawn.
    dpi: int = Field(default=200, ge=72, le=600)
    #: Left, top, right and bottom in pixels: only that part of each page is read, as if it were the page.
    region: Region | None = None
    stream: bool = False
    #: With `stream`: each page comes with a picture of it for people to look at, where the file is not one itself.
    sheet: bool = False
    background: bool = False
    request_id: str | None = Field(default=None, pattern=r"^[\w.:-]{1,128}$")


class OcrBody:
    """Reads the bodies of requests for text."""

    def __init__(self, settings: Settings) -> None:
        self._media = MediaReader(settings, most_bytes=settings.max_body_bytes)
        schema = BodySchema(
            fields=(*OcrFields.model_fields, *Reading.model_fields, *xinference.OPTIONS),
            files={**{name: name for name in FILES}, **{f"{name}[]": name for name in FILES}},
            aliases=ALIASES,
            max_files=settings.max_pages,
            max_file_bytes=settings.max_body_bytes,
        )
        self._reader = BodyReader(schema, self.decode)

    async def read(self, request: Request) -> tuple[OcrFields, Reading, list[DocumentFile]]:
        fields, uploads = await self._reader.read(request)
        ask, reading = of_fields(fields)
        if not uploads:
            raise errors.InvalidBody("There is nothing to read: send a picture or a PDF as image.", "image")
        return ask, reading, [_named(upload, index) for index, upload in enumerate(uploads)]

    async def decode(self, value: object, field: str, index: int = 0) -> bytes:
        """A file within JSON."""
        field = field.removesuffix("[]")
        return await self._media.file(value, field, nameless(field, index), ("image_url", "document_url"))


def _named(upload: Upload, index: int) -> DocumentFile:
    name = nameless(upload.field, index) if upload.name in NAMELESS else upload.name[:200]
    return DocumentFile(name, upload.data)


def nameless(field: str, index: int = 0) -> str:
    return field.removesuffix("s") + (f" {index + 1}" if index else "")


def of_fields(fields: JsonObject) -> tuple[OcrFields, Reading]:
    values = xinference.in_own_words(fields)
    for name in LISTS:
        if isinstance(values.get(name), str):
            if len(values[name]) > MOST_LISTED:
                raise errors.TooLarge(f"{name} has {len(values[name])} characters, {MOST_LISTED} are allowed.", name)
            values[name] = [part.strip() for part in values[name].split(",") if part.strip()]
    reading: Reading = checked(Reading, {name: values[name] for name in values if name in Reading.model_fields})
    ask: OcrFields = checked(OcrFields, {name: values[name] for name in values if name not in Reading.model_fields})
    if ask.stream and ask.background:
        raise errors.BadRequest("A background job cannot stream; leave out stream or background.", "stream")
    return ask, reading
