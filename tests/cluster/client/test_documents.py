"""A reading model's handle: what goes over the wire, and what comes back as text, files, pages and jobs."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cluster import AsyncClient, Client, errors
from cluster.client.documents import AsyncOcrModel, OcrModel
from cluster.client.jobs import AsyncJob, Job
from cluster.client.results import Page
from tests.cluster.client.image_server import ImageServer, Stream

OCR = "POST /v1/images/ocr"
SCAN = b"%PDF-1.7 a scan"
JOB = {"id": "job-1", "object": "ocr.job", "status": "queued", "progress": 0.0}
PDF = {"b64_json": base64.b64encode(b"%PDF-1.7 made").decode(), "output_format": "pdf"}


@pytest.fixture
def model(server: ImageServer) -> Iterator[OcrModel]:
    with Client(server.url) as client:
        yield OcrModel(client, "m")


async def with_async(server: ImageServer, use: Callable[[AsyncOcrModel], Any]) -> Any:
    async with AsyncClient(server.url) as client:
        return await use(AsyncOcrModel(client, "m"))


def page_event(number: int, text: str, content: Any = None, of: int = 2, **more: Any) -> dict[str, Any]:
    line = {"text": text, "bbox": [0, 0, 9, 9], "polygon": None, "score": 0.5, "words": []}
    block = {"type": "text", "text": text, "bbox": [0, 0, 9, 9], "lines": [line]}
    page = {"page": number, "width": 9, "height": 9, "text": text, "markdown": text, "blocks": [block], **more}
    return {"type": "ocr.page", "page": page, "done": number, "pages": of, "content": content}


COMPLETED = {"type": "ocr.completed", "pages": 2}


def form_of(server: ImageServer) -> tuple[dict[str, Any], list[bytes]]:
    """The fields with `kwargs` read, and the files."""
    form = server.of(OCR)[-1].body
    fields = {name: value for name, value in form if name != "image"}
    return {**fields, "kwargs": json.loads(fields["kwargs"])}, [value for name, value in form if name == "image"]


def test_the_text_is_the_answer(model: OcrModel, server: ImageServer, tmp_path: Path) -> None:
    server.on(OCR, "hello")
    path = tmp_path / "scan.pdf"
    path.write_bytes(SCAN)
    with path.open("rb") as file:
        for image in (path, str(path), SCAN, file):
            assert model.ocr(image) == "hello"
            assert form_of(server) == ({"model": "m", "kwargs": {}}, [SCAN])


def test_options_travel_as_they_are(model: OcrModel, server: ImageServer) -> None:
    server.on(OCR, {"pages": []})
    answer = model.ocr(SCAN, "json", "1-3", languages=["de"], dpi=300, task="parse", prompt=None)
    assert answer == {"pages": []}
    asked = {"output_format": "json", "pages": "1-3", "languages": ["de"], "dpi": 300, "task": "parse"}
    assert form_of(server)[0]["kwargs"] == asked


def test_several_files_are_one_document(model: OcrModel, server: ImageServer) -> None:
    server.on(OCR, "hello")
    image = Image.new("L", (3, 2))
    model.ocr([SCAN, image])
    _, (first, second) = form_of(server)
    assert first == SCAN and second.startswith(b"\x89PNG")


def test_a_pdf_is_its_bytes(model: OcrModel, server: ImageServer) -> None:
    server.on(OCR, PDF)
    assert model.ocr(SCAN, output_format="pdf") == b"%PDF-1.7 made"
    assert form_of(server)[0]["kwargs"] == {"output_format": "pdf", "response_format": "b64_json"}


def test_a_stream_is_its_pages(model: OcrModel, server: ImageServer) -> None:
    bad = page_event(2, "", error="no")
    server.on(
        OCR, Stream({"type": "ocr.delta", "page": 1, "delta": "he"}, page_event(1, "hello"), "beat", bad, COMPLETED)
    )
    first, second = model.ocr(SCAN, stream=True)
    assert (first.number, first.text, first.markdown, first.error) == (1, "hello", "hello", None)
    assert [line["text"] for line in first.lines] == ["hello"] and (first.done, first.pages) == (1, 2)
    assert (second.number, second.error) == (2, "no")
    assert form_of(server)[0]["kwargs"] == {"stream": True}


def test_pages_of_a_stream_have_their_own_content(model: OcrModel, server: ImageServer) -> None:
    server.on(OCR, Stream(page_event(1, "hello", "# hello"), page_event(2, "", PDF), COMPLETED))
    assert [page.content for page in model.ocr(SCAN, stream=True)] == ["# hello", b"%PDF-1.7 made"]


def test_whoever_stops_reading_leaves(model: OcrModel, server: ImageServer) -> None:
    stream = Stream(page_event(1, "one"), lambda: stream.left.is_set(), page_event(2, "two"))
    server.on(OCR, stream)
    pages = model.ocr(SCAN, stream=True)
    assert next(pages).text == "one"
    pages.close()
    assert stream.left.wait(5)


def test_errors_are_raised_as_their_class(model: OcrModel, server: ImageServer, tmp_path: Path) -> None:
    server.on(OCR, errors.TooLarge("too many pages", "pages"))
    with pytest.raises(errors.TooLarge, match="too many pages"):
        model.ocr(SCAN)
    server.on(OCR, Stream(page_event(1, "one"), errors.DeadlineExceeded("late")))
    pages = model.ocr(SCAN, stream=True)
    assert next(pages).text == "one"
    with pytest.raises(errors.DeadlineExceeded, match="late"):
        next(pages)


def test_what_cannot_be_read_is_told_before_anything_is_asked(
    model: OcrModel, server: ImageServer, tmp_path: Path
) -> None:
    for image in (tmp_path / "missing.pdf", [], 5):  # type: ignore[var-annotated]
        with pytest.raises(errors.BadRequest):
            model.ocr(image)
    assert server.seen == []


def test_a_job_ends_in_what_would_have_been_answered(model: OcrModel, server: ImageServer) -> None:
    server.on(OCR, JOB)
    job = model.ocr(SCAN, background=True)
    assert isinstance(job, Job) and job.id == "job-1"
    working = {**JOB, "status": "in_progress", "progress": 0.5}
    server.on("GET /v1/images/jobs/job-1", working, {**JOB, "status": "completed", "result": "hello"})
    assert job.progress() == 0.5 and job.result() == "hello"
    server.on("GET /v1/images/jobs/job-1", {**JOB, "status": "completed", "result": PDF})
    assert job.result() == b"%PDF-1.7 made"
    server.on("GET /v1/images/jobs/job-1", {**JOB, "status": "failed"})
    server.on("GET /v1/images/jobs/job-1/result", errors.InferenceFailed("it broke"))
    with pytest.raises(errors.InferenceFailed, match="it broke"):
        job.result()
    server.on("GET /v1/images/jobs/job-1", working)
    with pytest.raises(errors.DeadlineExceeded, match="at 50% after 0 s and goes on"):
        job.result(timeout=0)


def test_all_of_it_can_be_awaited(server: ImageServer) -> None:
    async def use(model: AsyncOcrModel) -> Any:
        server.on(OCR, "hello")
        text = await model.ocr(SCAN, pages=1)
        server.on(OCR, Stream(page_event(1, "one"), page_event(2, "two"), COMPLETED))
        pages = [page async for page in model.ocr(SCAN, stream=True)]
        server.on(OCR, JOB)
        server.on("GET /v1/images/jobs/job-1", {**JOB, "status": "completed", "result": "hello"})
        job = await model.ocr(SCAN, background=True)
        return text, pages, job, await job.result()

    text, pages, job, result = asyncio.run(with_async(server, use))
    assert text == result == "hello" and isinstance(job, AsyncJob)
    assert [isinstance(page, Page) and page.text for page in pages] == ["one", "two"]


@pytest.mark.parametrize("type", ["ocr", "image", "reading"])
def test_the_handle_is_that_of_what_the_model_can(server: ImageServer, type: str) -> None:
    server.on("GET /v1/models/m", {"model_type": type, "model_ability": ["ocr"]})
    with Client(server.url) as client:
        assert isinstance(client.get_model("m"), OcrModel)
