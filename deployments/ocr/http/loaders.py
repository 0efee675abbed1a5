"""Routes that document loaders of other programs ask: Open WebUI's for external services, and that for PaddleOCR-VL as
PaddleX serves it. Neither names a model: its address may, as `/ocr/<model>` before the path."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Required
from urllib.parse import unquote

from fastapi import APIRouter, Request
from typing_extensions import TypedDict

from cluster.names import cut
from cluster.value import JsonObject
from deployments.ingress.bodies import Json, checked, json_body
from deployments.ingress.dialects import Services
from deployments.ingress.openapi import described
from deployments.ocr.http.body import OcrFields
from deployments.ocr.http.documents import DocumentFile
from deployments.ocr.http.ocr import Ocr
from deployments.ocr.http.pages import every
from deployments.ocr.page import RecognisedPage
from deployments.ocr.requests import Reading


class LoadedPage(TypedDict):
    page_content: str
    metadata: JsonObject


class LayoutBody(TypedDict, total=False):
    """What else PaddleX takes chooses its models and draws its pictures, and is passed over."""

    #: The file as base64, or its address.
    file: Required[str]
    #: 0 is a PDF, 1 a picture; what it is shows in the file itself.
    fileType: int | None


class LayoutMarkdown(TypedDict):
    text: str
    images: JsonObject


class LayoutPage(TypedDict):
    markdown: LayoutMarkdown


class LayoutResult(TypedDict):
    layoutParsingResults: list[LayoutPage]


class LayoutAnswer(TypedDict):
    logId: str
    errorCode: int
    errorMsg: str
    result: LayoutResult


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["ocr"])
    ocr = services.shared(Ocr)

    async def read(request: Request, model: str | None, file: DocumentFile) -> Sequence[RecognisedPage]:
        fields: OcrFields = checked(OcrFields, {"model": model})
        order = await ocr.open(request, fields, Reading(), [file])
        with contextlib.closing(order.document):
            return [read.page for read in await every(ocr.run(request, order))]

    @routes.put("/process")
    @described("Read the document that is the body, as Open WebUI's external loader asks", list[LoadedPage])
    async def process(request: Request, model: str | None = None) -> Json:
        name = cut(unquote(request.headers.get("x-filename", ""))) or "document"
        pages = await read(request, model, DocumentFile(name, await request.body()))
        rows: list[LoadedPage] = [
            {"page_content": page.markdown, "metadata": {"source": name, "page": page.number - 1}} for page in pages
        ]
        return Json(rows)

    @routes.put("/ocr/{model:path}/process")
    @described("The same by a model of several", list[LoadedPage])
    async def process_by(model: str, request: Request) -> Json:
        return await process(request, model)

    @routes.post("/layout-parsing")
    @described("Read a document, as PaddleX's clients ask", LayoutAnswer, body=LayoutBody)
    async def parse_layout(request: Request, model: str | None = None) -> Json:
        data = await ocr.body.decode((await json_body(request)).get("file"), "file")
        pages = await read(request, model, DocumentFile("document", data))
        rows: list[LayoutPage] = [{"markdown": {"text": page.markdown, "images": {}}} for page in pages]
        result = {"layoutParsingResults": rows}
        return Json({"logId": request.state.request_id, "errorCode": 0, "errorMsg": "Success", "result": result})

    @routes.post("/ocr/{model:path}/layout-parsing")
    @described("The same by a model of several", LayoutAnswer, body=LayoutBody)
    async def parse_layout_by(model: str, request: Request) -> Json:
        return await parse_layout(request, model)

    return routes
