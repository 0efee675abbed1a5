"""The OCR route under Mistral's names: a document in, the markdown and the pictures of its pages out."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import Any

from fastapi import APIRouter, Request

from cluster import errors
from deployments.ingress.bodies import Json, checked, json_body
from deployments.ingress.dialects import Services
from deployments.ingress.openapi import described
from deployments.ocr.http import schemas
from deployments.ocr.http.body import OcrFields
from deployments.ocr.http.documents import DocumentFile
from deployments.ocr.http.mistral_pages import MistralBody, mistral_page
from deployments.ocr.http.ocr import Ocr
from deployments.ocr.http.pages import every
from deployments.ocr.http.uploads import Uploads
from deployments.ocr.requests import USUAL_FEATURES, Reading


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["ocr"])
    ocr, uploads = services.shared(Ocr), services.shared(Uploads)

    async def file_of(request: Request, body: MistralBody) -> DocumentFile:
        kind = body.document.get("type", "document_url")
        if kind == "file":
            record, data = await uploads.read(request, body.document.get("file_id"))
            return DocumentFile(record.filename, data)
        if kind not in ("document_url", "image_url"):
            raise errors.InvalidBody(f"document takes document_url, image_url or file, not {kind!r:.50}.", "document")
        # An address that was signed here is not fetched from ourselves.
        signed = await services.files.kept(body.document.get("document_url"))
        return DocumentFile("document", signed or await ocr.body.decode(body.document, "document"))

    @routes.post("/v1/ocr")
    @described(
        "Read a document, as Mistral does", schemas.MistralDocument, body=MistralBody, error=schemas.MistralError
    )
    async def read(request: Request) -> Json:
        body: MistralBody = checked(
            MistralBody, {name: value for name, value in (await json_body(request)).items() if value is not None}
        )
        refuse_annotations(body)
        file = await file_of(request, body)
        features = (*USUAL_FEATURES, "figures") if body.include_image_base64 else USUAL_FEATURES
        ask = OcrFields(model=body.model, pages=_from_one(body.pages))
        order = await ocr.open(request, ask, Reading(features=features), [file])
        with contextlib.closing(order.document):
            results = await every(ocr.run(request, order))
        pages = await asyncio.to_thread(lambda: [mistral_page(read.page, body) for read in results])
        usage = {"pages_processed": len(pages), "doc_size_bytes": len(file.data)}
        return Json({"pages": pages, "model": order.model.uid, "document_annotation": None, "usage_info": usage})

    return routes


def refuse_annotations(body: MistralBody) -> None:
    """A client that asked for an annotation parses what it gets: without one it would fail later, and not say why."""
    for field in ("bbox_annotation_format", "document_annotation_format"):
        if getattr(body, field) is not None:
            raise errors.BadRequest(
                f"{field} asks for an annotation, which a language model would write, and none reads documents here: "
                "leave it out, and ask a language model about the markdown.",
                field,
            )


def _from_one(pages: Any) -> Any:
    """Numbers from 0 as numbers from 1."""
    if isinstance(pages, list):
        return [_from_one(page) for page in pages]
    if isinstance(pages, str):
        return re.sub(r"\d{1,18}", lambda digits: str(int(digits[0]) + 1), pages)
    return pages if pages is None else pages + 1
