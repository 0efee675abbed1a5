"""The OCR route under Mistral's names: a document in, the markdown and the pictures of its pages out."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from cluster import errors
from cluster.value import JsonObject
from deployments.ingress.bodies import Json, checked, json_body
from deployments.ingress.dialects import Services
from deployments.ingress.openapi import described
from deployments.ocr.http import schemas
from deployments.ocr.http.body import OcrFields, Pages
from deployments.ocr.http.documents import DocumentFile
from deployments.ocr.http.ocr import Ocr
from deployments.ocr.http.pages import every
from deployments.ocr.page import Block, RecognisedPage
from deployments.ocr.requests import USUAL_FEATURES, Reading

#: Of pictures on a page, which are cut out as such.
PICTURES = ("figure", "chart")


class MistralBody(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str | None = None
    id: str | None = None
    document: JsonObject
    #: From 0.
    pages: Pages | None = None
    include_image_base64: bool = False
    image_limit: int | None = Field(default=None, ge=0)
    #: Of the shorter side, in pixels.
    image_min_size: int | None = Field(default=None, ge=0)


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["ocr"])
    ocr = services.shared(Ocr)

    @routes.post("/v1/ocr")
    @described("Read a document, as Mistral does", schemas.MistralDocument, body=MistralBody)
    async def read(request: Request) -> Json:
        body: MistralBody = checked(
            MistralBody, {name: value for name, value in (await json_body(request)).items() if value is not None}
        )
        kind = body.document.get("type", "document_url")
        if kind not in ("document_url", "image_url"):
            raise errors.InvalidBody(f"document takes document_url or image_url, not {kind!r:.50}.", "document")
        file = DocumentFile("document", await ocr.body.decode(body.document, "document"))
        features = (*USUAL_FEATURES, "figures") if body.include_image_base64 else USUAL_FEATURES
        ask = OcrFields(model=body.model, pages=_from_one(body.pages))
        order = await ocr.open(request, ask, Reading(features=features), [file])
        with contextlib.closing(order.document):
            results = await every(ocr.run(request, order))
        pages = await asyncio.to_thread(lambda: [_page(read.page, body) for read in results])
        usage = {"pages_processed": len(pages), "doc_size_bytes": len(file.data)}
        return Json({"pages": pages, "model": order.model.uid, "document_annotation": None, "usage_info": usage})

    return routes


def _from_one(pages: Any) -> Any:
    """Numbers from 0 as numbers from 1."""
    if isinstance(pages, list):
        return [_from_one(page) for page in pages]
    if isinstance(pages, str):
        return re.sub(r"\d{1,18}", lambda digits: str(int(digits[0]) + 1), pages)
    return pages if pages is None else pages + 1


def _page(page: RecognisedPage, body: MistralBody) -> JsonObject:
    row: JsonObject = {
        "index": page.number - 1,
        "markdown": page.markdown,
        "images": list(_images(page, body)),
        "dimensions": {"dpi": round(page.dpi or 0), "height": page.height, "width": page.width},
    }
    return row if page.error is None else {**row, "error": page.error}


def _images(page: RecognisedPage, body: MistralBody) -> Iterator[JsonObject]:
    blocks = [block for block in page.blocks if block.type in PICTURES and _is_large(block, body.image_min_size or 0)]
    for index, block in enumerate(blocks[: body.image_limit]):
        assert block.bbox is not None
        left, top, right, bottom = map(round, block.bbox)
        picture = None
        if body.include_image_base64 and block.picture is not None:
            picture = "data:image/png;base64," + base64.b64encode(block.picture).decode()
        yield {
            "id": f"img-{index}.png",
            "top_left_x": left,
            "top_left_y": top,
            "bottom_right_x": right,
            "bottom_right_y": bottom,
            "image_base64": picture,
        }


def _is_large(block: Block, least: int) -> bool:
    if block.bbox is None:
        return False
    left, top, right, bottom = block.bbox
    return min(right - left, bottom - top) >= least
