"""Documents that are uploaded first and read later, as Mistral's clients do it: kept for a while, for those who
uploaded them."""

from __future__ import annotations

import asyncio
import mimetypes
import time
import uuid
from collections.abc import Sequence

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from typing_extensions import TypedDict

from cluster import errors, keys
from cluster.names import cut, quoted
from cluster.value import Value
from deployments.ingress.bodies import Json, checked, form_of
from deployments.ingress.dialects import Services
from deployments.ingress.files import TYPES, Shelf
from deployments.ingress.openapi import BYTES, described

#: Fields of the form besides the file.
MOST_FIELDS = 10
MOST_LISTED = 1000
#: What stands in the folder for each: the record, and the file.
RECORD, CONTENT = "json", "data"


class UploadRecord(Value):
    id: str
    filename: str
    purpose: str
    bytes: int
    created_at: int
    #: The id of the key that it was uploaded with.
    owner: str | None = None

    def row(self) -> UploadedFile:
        """As Mistral's clients read it, and OpenAI's."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": self.created_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "sample_type": "ocr_input",
            "source": "upload",
            "mimetype": mimetypes.guess_type(self.filename)[0],
            "status": "processed",
            "deleted": False,
        }


class UploadedFile(TypedDict):
    id: str
    object: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    sample_type: str
    source: str
    mimetype: str | None
    status: str
    deleted: bool


class UploadedFiles(TypedDict):
    object: str
    data: list[UploadedFile]
    total: int


class DeletedFile(TypedDict):
    id: str
    object: str
    deleted: bool


class SignedAddress(TypedDict):
    url: str


class UploadFields(BaseModel):
    purpose: str = Field(default="ocr", max_length=100)
    file: str = Field(description="The file; in a form, since nothing else holds one.")


class Uploads:
    """The uploaded documents; all ingresses share them."""

    def __init__(self, services: Services) -> None:
        settings = services.settings
        self.most_bytes = settings.max_body_bytes
        self._shelf = Shelf(settings.home / "uploads", settings.files_keep_s, settings.files_bytes)

    async def add(self, request: Request, filename: str, purpose: str, data: bytes) -> UploadRecord:
        key: keys.Key | None = request.state.key
        record = UploadRecord(
            id=str(uuid.uuid4()),
            filename=filename,
            purpose=purpose,
            bytes=len(data),
            created_at=int(time.time()),
            owner=key.id if key else None,
        )
        await asyncio.to_thread(self._put, record, data)
        return record

    def _put(self, record: UploadRecord, data: bytes) -> None:
        self._shelf.put(f"{record.id}.{CONTENT}", data)
        self._shelf.put(f"{record.id}.{RECORD}", record.model_dump_json().encode())

    async def record(self, request: Request, id: object) -> UploadRecord:
        """What the key may not see is not there."""
        text = await self._got(id, RECORD)
        record = UploadRecord.model_validate_json(text) if text else None
        if record is None or not keys.reaches(request.state.key, record.owner):
            raise HTTPException(404, f"There is no file {quoted(id)}, or not any more; upload it again.")
        return record

    async def read(self, request: Request, id: object) -> tuple[UploadRecord, bytes]:
        record = await self.record(request, id)
        data = await self._got(record.id, CONTENT)
        if data is None:
            raise HTTPException(404, f"The file {record.id} is not there any more; upload it again.")
        return record, data

    async def _got(self, id: object, kind: str) -> bytes | None:
        return await asyncio.to_thread(self._shelf.get, f"{id}.{kind}") if isinstance(id, str) else None

    async def every(self, request: Request) -> Sequence[UploadRecord]:
        """The latest first."""
        texts = await asyncio.to_thread(self._records)
        records = [UploadRecord.model_validate_json(text) for text in texts]
        own = [record for record in records if keys.reaches(request.state.key, record.owner)]
        return sorted(own, key=lambda record: record.created_at, reverse=True)

    def _records(self) -> list[bytes]:
        names = [name for name in self._shelf.names() if name.endswith(f".{RECORD}")]
        return [text for name in names if (text := self._shelf.get(name)) is not None]

    async def drop(self, record: UploadRecord) -> None:
        for kind in (RECORD, CONTENT):
            await asyncio.to_thread(self._shelf.drop, f"{record.id}.{kind}")


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["ocr"])
    uploads = services.shared(Uploads)

    @routes.post("/v1/files")
    @described("Upload a document to read later", UploadedFile, body=UploadFields, takes_form=True)
    async def upload(request: Request) -> Json:
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise errors.InvalidBody("A file is uploaded as multipart/form-data, with the field file.", "file")
        async with form_of(request, 1, MOST_FIELDS, uploads.most_bytes) as form:
            file = form.get("file")
            if file is None or isinstance(file, str):
                raise errors.InvalidBody("There is no file: send one as the field file.", "file")
            purpose = form.get("purpose")
            fields: UploadFields = checked(UploadFields, {"file": "", **({"purpose": purpose} if purpose else {})})
            name = cut((file.filename or "document").replace("\\", "/").rpartition("/")[2])
            record = await uploads.add(request, name, fields.purpose, await file.read())
        return Json(record.row())

    @routes.get("/v1/files")
    @described("The uploaded documents", UploadedFiles)
    async def files(request: Request, page: int = 0, page_size: int = 100) -> Json:
        records = await uploads.every(request)
        first = max(page, 0) * max(1, min(page_size, MOST_LISTED))
        rows = [record.row() for record in records[first : first + max(1, min(page_size, MOST_LISTED))]]
        return Json({"object": "list", "data": rows, "total": len(records)})

    @routes.get("/v1/files/{file_id}")
    @described("An uploaded document", UploadedFile)
    async def retrieve(file_id: str, request: Request) -> Json:
        return Json((await uploads.record(request, file_id)).row())

    @routes.delete("/v1/files/{file_id}")
    @described("Delete an uploaded document", DeletedFile)
    async def delete(file_id: str, request: Request) -> Json:
        record = await uploads.record(request, file_id)
        await uploads.drop(record)
        return Json({"id": record.id, "object": "file", "deleted": True})

    @routes.get("/v1/files/{file_id}/content")
    @described("The content of an uploaded document", media_types=(BYTES,))
    async def content(file_id: str, request: Request) -> Response:
        _, data = await uploads.read(request, file_id)
        headers = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox"}
        return Response(data, media_type=BYTES, headers=headers)

    @routes.get("/v1/files/{file_id}/url")
    @described("An address of an uploaded document that asks for no key", SignedAddress)
    async def signed(file_id: str, request: Request) -> Json:
        """Kept as long as pictures are that were answered as an address."""
        record, data = await uploads.read(request, file_id)
        extension = record.filename.rpartition(".")[2].lower().replace("jpg", "jpeg")
        base = services.files.address_for(request)
        format = extension if extension in TYPES else "bin"
        return Json({"url": await asyncio.to_thread(services.files.keep, data, format, base)})

    return routes
