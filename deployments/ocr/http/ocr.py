"""The route that reads text: pictures and documents in, their pages out as text or in a format that keeps more."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Iterator, Sequence
from typing import Any, BinaryIO, cast

import orjson
from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from cluster import keys
from cluster.calls import View
from cluster.value import JsonObject
from deployments.ingress.bodies import Json
from deployments.ingress.dialects import Services
from deployments.ingress.errors import as_cluster_error, error_body
from deployments.ingress.events import Events
from deployments.ingress.jobs import JobRow
from deployments.ingress.openapi import EVENTS, described
from deployments.ingress.progress import views
from deployments.ingress.serving import lane_of, owner_of
from deployments.ocr import formats
from deployments.ocr.http import schemas
from deployments.ocr.http.body import OcrBody, OcrFields
from deployments.ocr.http.documents import DocumentFile, DocumentOpener
from deployments.ocr.http.pages import DocumentRun, OcrOrder, PageResult, every, refuse_unread
from deployments.ocr.page import RecognisedPage
from deployments.ocr.requests import Reading
from deployments.ocr.searchable import SearchablePdf, searchable

#: The media type of each format when an `Accept` header asks for it as a file; else it is a text within JSON.
MEDIA_TYPES = {
    "text": "text/plain",
    "markdown": "text/markdown",
    "html": "text/html",
    "hocr": "text/html",
    "tsv": "text/tab-separated-values",
}
PDF = "application/pdf"
#: A PDF up to this size is written in memory.
SPOOL_BYTES = 8_000_000
PIECE = 256 * 1024


class Ocr:
    def __init__(self, services: Services) -> None:
        self.serving = services.serving
        self.body = OcrBody(services.settings)
        self._services = services
        self._documents = DocumentOpener(services.settings)

    async def open(self, request: Request, ask: OcrFields, reading: Reading, files: Sequence[DocumentFile]) -> OcrOrder:
        """What to read by which model; its document is to be closed when it has been read."""
        model = self.serving.find(request, ask.model, "ocr")
        request.state.model = model.uid
        await self._services.progress.name(request, model, ask.request_id, streams=ask.stream)
        document = await self._documents.open(files, caller_of(request))
        try:
            return OcrOrder(model, ask, reading, document, self._documents.choose(document, ask.pages))
        # Also when the request is cancelled: nobody else knows this document, so nobody else would delete its files.
        except BaseException:
            document.close()
            raise

    def run(self, request: Request, order: OcrOrder) -> DocumentRun:
        timeout_s = self.serving.timeout_of(request)
        return DocumentRun(self._services, order, owner_of(request), timeout_s, lane_of(request))

    # ---------------------------------------------------------------------------------------- what is answered

    async def answer(self, request: Request) -> Response:
        order = await self.open(request, *await self.body.read(request))
        if order.ask.background:
            return await self._later(request, order)
        run = self.run(request, order)
        if order.ask.stream:
            return await Events.of(self._events(order, run))
        with contextlib.closing(order.document):
            if order.ask.output_format == "pdf":
                return await self._pdf(order, run)
            results = await every(run)
        body = await asyncio.to_thread(order.written, [read.page for read in results])
        headers = _unread_header(results)
        media_type = MEDIA_TYPES.get(order.ask.output_format)
        if media_type is not None and media_type in request.headers.get("accept", ""):
            headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
            return Response(body, media_type=media_type, headers=headers)
        return Json(body, headers=headers)

    async def _pdf(self, order: OcrOrder, run: DocumentRun) -> Response:
        file = await self._written_pdf(run)
        if order.ask.response_format == "b64_json":
            with file:
                return Json(await asyncio.to_thread(_all_of, file))
        headers = {"Content-Length": str(file.tell())}
        return StreamingResponse(_pieces_of(file), media_type=PDF, headers=headers)

    async def _written_pdf(self, run: DocumentRun) -> BinaryIO:
        """A file that was written page by page; its position is at its end."""
        file = cast(BinaryIO, tempfile.SpooledTemporaryFile(SPOOL_BYTES))
        pdf = SearchablePdf(file)
        results: list[PageResult] = []
        async with contextlib.aclosing(run.pages()) as pages:
            async for read in pages:
                if read.picture is not None:
                    await asyncio.to_thread(pdf.add, read.picture.data, read.page)
                results.append(read._replace(page=RecognisedPage(0, 0), picture=None))
        refuse_unread(results)
        await asyncio.to_thread(pdf.close)
        return file

    async def _later(self, request: Request, order: OcrOrder) -> Response:
        lane = lane_of(request)

        async def work(owner: str) -> JsonObject | str:
            with contextlib.closing(order.document):
                run = DocumentRun(self._services, order, owner, self.serving.settings.job_timeout_s, lane)
                if order.ask.output_format != "pdf":
                    results = await every(run)
                    return await asyncio.to_thread(order.written, [read.page for read in results])
                with await self._written_pdf(run) as file:
                    return await asyncio.to_thread(_all_of, file)

        record = await self._services.jobs.begin("ocr.job", request.state.key, order.model, work)
        return Json(record.to_json(), 202)

    # -------------------------------------------------------------------------------------------------- streams

    async def _events(self, order: OcrOrder, run: DocumentRun) -> AsyncGenerator[bytes]:
        """Each page as soon as it and those before it are read, and what is written of it so far."""
        has_begun = False
        results: list[PageResult] = []
        try:
            with contextlib.closing(order.document):
                async with contextlib.aclosing(run.pages()) as pages:
                    async for event in self._of_pages(order, run, pages, results):
                        yield event
                        has_begun = True
                yield event_of("ocr.completed", _summary(order, results))
        # Once the answer has begun its status is sent, so the error becomes an event.
        except Exception as error:
            if not has_begun:
                raise
            yield event_of("error", error_body(as_cluster_error(error)))

    async def _of_pages(
        self, order: OcrOrder, run: DocumentRun, pages: AsyncGenerator[PageResult], results: list[PageResult]
    ) -> AsyncGenerator[bytes]:
        while True:
            coming = asyncio.ensure_future(anext(pages, None))
            try:
                number = order.numbers[min(len(results), len(order.numbers) - 1)]
                async with contextlib.aclosing(self._meanwhile(order, run.id_of(number), number, coming)) as events:
                    async for event in events:
                        yield event
                read = await coming
            finally:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
            if read is None:
                return
            if len(order.numbers) == 1:
                refuse_unread([read])
            sheet = await _sheet_of(order, read)
            yield await asyncio.to_thread(_page_event, order, read, len(results) + 1, sheet)
            results.append(read._replace(page=read.page._replace(blocks=()), picture=None))

    async def _meanwhile(
        self, order: OcrOrder, id: str, number: int, coming: asyncio.Future[Any]
    ) -> AsyncGenerator[bytes]:
        """Events until the next page is read."""
        beat_s, sent = self.serving.settings.keep_alive_s, 0

        def watch(version: int, wait_s: float) -> Awaitable[View | None]:
            return self._services.progress.watch(order.model, id, version, wait_s)

        async with contextlib.aclosing(views(coming, watch, beat_s)) as changes:
            async for view in changes:
                pieces = view.previews[sent:] if view is not None else ()
                for piece in pieces:
                    delta = {"page": number, "delta": piece.decode(errors="replace")}
                    yield event_of("ocr.delta", delta)
                sent += len(pieces)
                if view is None:
                    yield b": still at work\n\n"


async def _sheet_of(order: OcrOrder, read: PageResult) -> bytes | None:
    if not order.ask.sheet or read.picture is None:
        return None
    return await order.document.sheet(read.page.number, read.picture, order.ask.dpi, order.ask.region)


def _page_event(order: OcrOrder, read: PageResult, done: int, sheet: bytes | None) -> bytes:
    content: Any = None
    format = order.ask.output_format
    if format == "pdf":
        content = _as_base64(searchable([(read.picture.data, read.page)])) if read.picture is not None else None
    elif format != "json":
        content = formats.WRITERS[format]([read.page])
    event = {"page": order.page_json(read.page), "done": done, "pages": len(order.numbers), "content": content}
    if sheet is not None:
        event["sheet"] = {"b64_json": base64.b64encode(sheet).decode(), "output_format": "png"}
    return event_of("ocr.page", event)


def _summary(order: OcrOrder, results: Sequence[PageResult]) -> JsonObject:
    unread = [read.page.number for read in results if read.error is not None]
    usage = formats.usage([read.page for read in results])
    return {"model": order.model.uid, "pages": len(results), "unread": unread, "usage": usage}


def caller_of(request: Request) -> str:
    """Whose turns are counted together: those of a key, or of an address without one."""
    key = request.state.key
    if key is not None:
        return keys.shared_id(key.id)
    return request.client.host if request.client else ""


def event_of(name: str, content: JsonObject) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps({"type": name, **content}))


def _unread_header(results: Sequence[PageResult]) -> dict[str, str]:
    """A header names the pages that could not be read: formats of text have no place for it."""
    numbers = ",".join(str(read.page.number) for read in results if read.error is not None)
    return {"x-unread-pages": numbers} if numbers else {}


def _as_base64(pdf: bytes) -> dict[str, str]:
    return {"b64_json": base64.b64encode(pdf).decode(), "output_format": "pdf"}


def _all_of(file: BinaryIO) -> dict[str, str]:
    file.seek(0)
    return _as_base64(file.read())


def _pieces_of(file: BinaryIO) -> Iterator[bytes]:
    with file:
        file.seek(0)
        while piece := file.read(PIECE):
            yield piece


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["ocr"])
    ocr = services.shared(Ocr)

    @routes.post("/v1/images/ocr")
    @described(
        "Read pictures and documents",
        schemas.ReadDocument | schemas.EncodedFile | str,
        body=schemas.DocumentBody,
        takes_form=True,
        media_types=(*MEDIA_TYPES.values(), PDF, EVENTS),
        later=JobRow,
    )
    async def read(request: Request) -> Response:
        return await ocr.answer(request)

    return routes
