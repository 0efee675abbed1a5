"""Xinference's own client and pages to read: to it an OCR model is an image model."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image, ImageDraw, ImageFont
from xinference_client import AsyncRESTfulClient, RESTfulClient
from xinference_client.client.restful.restful_client import RESTfulImageModelHandle

from tests.documented import CLIENT
from tests.live import LiveCluster, until
from tests.read_pages import document, page, picture, reading


@pytest.fixture(scope="module")
def reader(live: LiveCluster) -> Iterator[str]:
    with reading(live, "xinf-reader"), reading(live, "xinf-slow", seconds=0.4, parallel=1):
        yield "xinf-reader"


@pytest.fixture
def client(live: LiveCluster) -> Iterator[RESTfulClient]:
    client = RESTfulClient(live.url)
    yield client
    client.close()


@pytest.fixture
def model(client: RESTfulClient, reader: str) -> RESTfulImageModelHandle:
    return client.get_model(reader)


@pytest.mark.slow
def test_an_ocr_model_is_launched_and_opened_as_an_image_model(client: RESTfulClient) -> None:
    assert client.query_engine_by_model_name("ppocr-v6", model_type="image")
    assert client.get_model_registration("image", "ppocr-v6")["model_name"] == "ppocr-v6"
    registered = {row["model_name"] for row in client.list_model_registrations("image")}
    assert {"ppocr-v6", "FLUX.1-dev"} <= registered
    uid = client.launch_model(model_name="ppocr-v6", model_type="image")
    try:
        listed = client.list_models()[uid]
        assert (listed["model_type"], listed["model_ability"]) == ("image", ["ocr"])
        image = Image.new("RGB", (500, 80), "white")
        font = ImageFont.truetype("DejaVuSans.ttf", 40)
        ImageDraw.Draw(image).text((20, 15), "Hello from a page", fill="black", font=font)
        target = io.BytesIO()
        image.save(target, "PNG")
        assert client.get_model(uid).ocr(target.getvalue(), ocr_type="ocr") == "Hello from a page"
    finally:
        client.terminate_model(uid)


def test_our_own_client_says_what_it_is(live: LiveCluster, reader: str) -> None:
    with live.client() as client:
        assert client.list_models()[reader]["model_type"] == client.describe_model(reader)["model_type"] != "image"
        assert client.get_model(reader).ocr(picture("hello")) == "hello"
        assert {row["cluster_type"] for row in client.list_model_registrations("image")} == {"image"}
        assert "ppocr-v6" in {row["model_name"] for row in client.list_model_registrations("ocr")}


def test_options_of_xinferences_models_are_taken(model: RESTfulImageModelHandle) -> None:
    both = Image.new("L", (560, 280))
    both.paste(page("left"), (0, 0))
    both.paste(page("right"), (280, 0))
    target = io.BytesIO()
    both.save(target, "PNG")
    for box in ([280, 0, 560, 280], "[280,0,560,280]", "280, 0, 900, 900"):
        assert model.ocr(target.getvalue(), ocr_box=box, ocr_type="ocr", ocr_color="red") == "right"
    assert model.ocr(target.getvalue(), ocr_box=[0, 0, 280, 280], model_size="gundam", save_results=False) == "left"
    assert model.ocr(picture("hello"), return_dict=True, threshold=0.2)["text"] == "hello"
    with pytest.raises(RuntimeError, match="image has 560 x 280 pixels, and none within"):
        model.ocr(target.getvalue(), ocr_box=[600, 0, 700, 280])
    with pytest.raises(RuntimeError, match="ocr_type takes ocr or format, not 'fancy'"):
        model.ocr(picture("hello"), ocr_type="fancy")


@pytest.mark.documented(CLIENT, "ocr")
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
        handle = await client.get_model(reader)
        try:
            return await handle.ocr(document("one", "two"), pages=[2])
        finally:
            await handle.close()
            await client.close()

    assert asyncio.run(read()) == "two"


def test_a_request_is_followed_and_aborted_by_its_id(client: RESTfulClient, live: LiveCluster, reader: str) -> None:
    slow = client.get_model("xinf-slow")
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(slow.ocr, document(*"123456"), request_id="xinf-1")
        until(lambda: live.get("/v1/requests/xinf-1/progress").status_code == 200, within=5)
        until(lambda: 0 < client.get_progress("xinf-1")["progress"] < 1, within=10)
        client.abort_request("xinf-slow", "xinf-1", block_duration=1)
        with pytest.raises(RuntimeError, match="cancelled"):
            answer.result()
