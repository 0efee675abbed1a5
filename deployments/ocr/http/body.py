"""What a request for text says: its fields and files, from JSON or a multipart form alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import UploadFile

from cluster import errors
from cluster.names import cut, nearest, quoted
from cluster.settings import Settings
from deployments.ingress.bodies import checked, form_of, inner_json, json_body
from deployments.ingress.media import Fetcher, Media, decoded_aside
from deployments.ocr.http.documents import Given
from deployments.ocr.requests import Reading

#: Every name under which files come.
FILES = ("image", "images", "file", "files", "document", "documents")
#: Other names that clients have for fields.
ALIASES = {"language": "languages", "lang": "languages"}
#: Fields of several values, which a form and a command line hold as one text with commas.
LISTS = ("languages", "features")
MOST_LISTED = 10_000
#: What a file is called whose sender did not say.
NAMELESS = ("", "image", "file", "blob", "upload")
MOST_FIELDS = 100

#: `3`, `"1-3,7"`, or a list of such.
Pages = (
    int
    | Annotated[str, Field(max_length=100_000)]
    | Annotated[list[int | Annotated[str, Field(max_length=100)]], Field(max_length=10_000)]
)
Format = Literal["text", "json", "markdown", "html", "hocr", "tsv", "pdf"]


class Ask(BaseModel):
    """The fields that are not the model's affair."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str | None = None
    output_format: Format = "text"
    #: For a PDF: the file itself, or within JSON.
    response_format: Literal["file", "b64_json"] = "file"
    #: From 1 and through all files of the request.
    pages: Pages | None = None
    #: At which the pages of a PDF are drawn.
    dpi: int = Field(default=200, ge=72, le=600)
    stream: bool = False
    background: bool = False
    request_id: str | None = Field(default=None, pattern=r"^[\w.:-]{1,128}$")


KNOWN = (*Ask.model_fields, *Reading.model_fields, *ALIASES, *FILES, "kwargs", "extra_body")


class Papers:
    """Reads requests."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._media = Media(settings, Fetcher(settings.max_body_bytes))

    async def read(self, request: Request) -> tuple[Ask, Reading, list[Given]]:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        is_form = kind in ("multipart/form-data", "application/x-www-form-urlencoded")
        fields, files = await (self._of_form(request) if is_form else self._of_json(await json_body(request)))
        ask, reading = of_fields(fields)
        if not files:
            raise errors.InvalidBody("There is nothing to read: send a picture or a PDF as image.", "image")
        return ask, reading, files

    async def _of_form(self, request: Request) -> tuple[dict[str, Any], list[Given]]:
        fields: dict[str, Any] = {}
        files: list[Given] = []
        # A file may also be a text of base64.
        most = self._settings.max_body_bytes * 4 // 3
        async with form_of(request, self._settings.max_pages, MOST_FIELDS, most) as form:
            for name, value in form.multi_items():
                if _plain(name) in FILES:
                    files.append(await self._uploaded(value, _plain(name), len(files)))
                elif isinstance(value, UploadFile):
                    raise errors.InvalidBody(f"{name} must be text, not a file.", name)
                # Clients send what was left empty.
                elif value not in ("", "null"):
                    fields[name] = value
        return fields, files

    async def _uploaded(self, value: UploadFile | str, field: str, index: int) -> Given:
        if isinstance(value, str):
            return await self.given(value, field, index)
        name = (value.filename or "").replace("\\", "/").rpartition("/")[2]
        return Given(nameless(field, index) if name in NAMELESS else name[:200], await value.read())

    async def _of_json(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], list[Given]]:
        """Null is what is not given."""
        files: list[Given] = []
        for field in FILES:
            value = body.get(field)
            for one in value if isinstance(value, list) else [value]:
                if one is not None:
                    files.append(await self.given(one, field, len(files)))
        if len(files) > self._settings.max_pages:
            raise errors.TooLarge(
                f"The request has {len(files)} files, {self._settings.max_pages} are allowed.", "image"
            )
        return {name: value for name, value in body.items() if name not in FILES and value is not None}, files

    async def given(self, value: Any, field: str, index: int = 0) -> Given:
        """A file within JSON: a data URI, base64, an address, or an object that holds one."""
        if isinstance(value, Mapping):
            value = value.get("image_url") or value.get("document_url") or value
            value = value.get("url") if isinstance(value, Mapping) else value
        if not isinstance(value, str):
            raise errors.InvalidBody(
                f"{field} must be a data URI, or an object whose image_url or document_url is one.", field
            )
        name = nameless(field, index)
        if value[:8].lower().startswith(("http://", "https://")):
            (found,) = await self._media.read([{"image": value}], field)
            return Given(name, found["image"])
        return Given(name, await decoded_aside(value, "image", self._settings.max_body_bytes, name, field))


def nameless(field: str, index: int) -> str:
    return field.removesuffix("s") + (f" {index + 1}" if index else "")


def of_fields(fields: Mapping[str, Any]) -> tuple[Ask, Reading]:
    """What clients nest counts as much as what they do not; of two, what stands outside."""
    outside = dict(fields)
    nested = [_nested(name, outside.pop(name, None)) for name in ("kwargs", "extra_body")]
    known = {**nested[0], **nested[1], **outside}
    for name in known:
        if name not in KNOWN:
            raise _unknown(name)
    whole = {ALIASES.get(name, name): value for name, value in known.items()}
    for name in LISTS:
        if isinstance(whole.get(name), str):
            if len(whole[name]) > MOST_LISTED:
                raise errors.TooLarge(f"{name} has {len(whole[name])} characters, {MOST_LISTED} are allowed.", name)
            whole[name] = [part.strip() for part in whole[name].split(",") if part.strip()]
    reading: Reading = checked(Reading, {name: whole[name] for name in whole if name in Reading.model_fields})
    ask: Ask = checked(Ask, {name: whole[name] for name in whole if name not in Reading.model_fields})
    if ask.stream and ask.background:
        raise errors.BadRequest("A job in the background streams nothing; leave out stream or background.", "stream")
    return ask, reading


def _nested(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = inner_json(value, name) if value.strip() else {}
    if not isinstance(value or {}, Mapping):
        raise errors.InvalidBody(f"{name} must be an object, as such or as a text of JSON.", name)
    return {inner: given for inner, given in (value or {}).items() if given is not None}


def _plain(name: str) -> str:
    return name.removesuffix("[]")


def _unknown(name: str) -> errors.InvalidBody:
    near = nearest(name, KNOWN)
    hint = f"did you mean {near[0]!r}?" if near else f"there is {', '.join(sorted(KNOWN))}."
    return errors.InvalidBody(f"There is no field {quoted(name)}; {hint}", cut(name))
