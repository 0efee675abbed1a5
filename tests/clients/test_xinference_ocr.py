"""Xinference's own client and pages to read. The handles are made by hand, since the client makes them only for
Xinference's model types."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from xinference_client import AsyncRESTfulClient, RESTfulClient
from xinference_client.client.restful.async_restful_client import AsyncRESTfulImageModelHandle
from xinference_client.client.restful.restful_client import RESTfulImageModelHandle

from tests.live import LiveCluster, until
from tests.read_pages import document, picture, reading


@pytest.fixture(scope="module")
def reader(live: LiveCluster) -> Iterator[str]:
    with reading(live, "xinf-reader"), reading(live, "xinf-slow", seconds=0.4, parallel=1):
        yield "xinf-reader"


@pytest.fixture
def model(live: LiveCluster, reader: str) -> RESTfulImageModelHandle:
    return RESTfulImageModelHandle(reader, live.url, {})


def test_a_picture_becomes_a_text(model: RESTfulImageModelHandle) -> None:
    assert model.ocr(picture("hello world")) == "hello world"
    assert model.ocr(picture("hello"), languages=["de"], max_new_tokens=100) == "hello\nlanguages de"


def test_a_document_becomes_the_texts_of_its_pages(model: RESTfulImageModelHandle) -> None:
    pdf = document("one", "two", "three")
    assert model.ocr(pdf) == "one\n\ntwo\n\nthree"
    assert model.ocr(pdf, pages=2, dpi=100) == "two"
    assert model.ocr(pdf, pages=[1, 3]) == "one\n\nthree"


def test_structured_answers_are_objects(model: RESTfulImageModelHandle) -> None:
    answer = model.ocr(document("one", "two"), output_format="json")
    assert [page["text"] for page in answer["pages"]] == ["one", "two"]


def test_what_is_wrong_is_raised_with_its_sentence(model: RESTfulImageModelHandle) -> None:
    with pytest.raises(RuntimeError, match="Failed to ocr the images, detail: image is neither a picture"):
        model.ocr(b"just text")
    with pytest.raises(RuntimeError, match="pages asks for 9, and image has 1 page"):
        model.ocr(document("one"), pages=9)


def test_the_async_client_reads_as_well(live: LiveCluster, reader: str) -> None:
    async def read() -> str:
        client = AsyncRESTfulClient(live.url)
        handle = AsyncRESTfulImageModelHandle(reader, live.url, {})
        try:
            return await handle.ocr(document("one", "two"), pages=[2])
        finally:
            await handle.close()
            await client.close()

    assert asyncio.run(read()) == "two"


def test_a_request_is_followed_and_aborted_by_its_id(live: LiveCluster, reader: str) -> None:
    client, slow = RESTfulClient(live.url), RESTfulImageModelHandle("xinf-slow", live.url, {})
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(slow.ocr, document(*"123456"), request_id="xinf-1")
        until(lambda: live.get("/v1/requests/xinf-1/progress").status_code == 200, within=5)
        until(lambda: 0 < client.get_progress("xinf-1")["progress"] < 1, within=10)
        client.abort_request("xinf-slow", "xinf-1", block_duration=1)
        with pytest.raises(RuntimeError, match="cancelled"):
            answer.result()
    client.close()
