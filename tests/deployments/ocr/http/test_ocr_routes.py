"""The routes that read text, with a model whose pages can be worked out by hand."""

from __future__ import annotations

import asyncio
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pypdfium2
import pytest

from tests.deployments.ocr.http.asking import OCR, PAGE_S, asked, assert_refused, events, streamed, told
from tests.live import LiveCluster, until
from tests.odd_files import encrypted_pdf, pdf_of, pdf_with_a_bad_page, png_claiming
from tests.painted import as_uri
from tests.read_pages import Journal, document, picture, text_of

# --------------------------------------------------------------------------------------------------- what is answered


def test_without_a_wish_the_answer_is_the_text_as_json(server: httpx.Client) -> None:
    answer = asked(server, picture("hello world"))
    assert answer.headers["content-type"] == "application/json" and answer.content == b'"hello world"'


def test_pages_are_joined_by_blank_lines(server: httpx.Client) -> None:
    for data in (document("one", "two\nlines"), document("one", "two\nlines", format="TIFF")):
        assert told(asked(server, data)) == "one\n\ntwo\nlines"


def test_wishes_stand_at_the_top_or_in_kwargs(server: httpx.Client) -> None:
    options = {"languages": ["de", "eng"], "pages": "2"}
    answers = [
        asked(server, document("one", "two"), kwargs=json.dumps(options)),
        asked(server, document("one", "two"), languages="de,eng", pages="2"),
        # The fields at the top count.
        asked(server, document("one", "two"), kwargs=json.dumps({**options, "pages": "1"}), pages="2"),
        server.post(OCR, json={"model": "reader", "image": as_uri(document("one", "two")), **options}),
        server.post(OCR, json={"model": "reader", "image": as_uri(document("one", "two")), "kwargs": options}),
    ]
    assert [told(answer) for answer in answers] == ["two\nlanguages de en"] * 5


def test_json_takes_data_uris_base64_and_objects_that_hold_one(server: httpx.Client) -> None:
    one, two = as_uri(picture("one")), as_uri(document("two"), "application/pdf")
    bodies = [
        {"images": [one, two]},
        {"image": {"url": one}, "document": two},
        {"image": [{"type": "image_url", "image_url": {"url": one}}, {"document_url": two}]},
        {"image": one.partition(",")[2], "file": two.partition(",")[2]},
    ]
    assert [told(server.post(OCR, json={"model": "reader", **body})) for body in bodies] == ["one\n\ntwo"] * 4  # type: ignore[dict-item]


def test_json_says_all_that_was_read(server: httpx.Client) -> None:
    body = told(
        asked(server, ("scan.pdf", document("one page", "two")), ("b.png", picture("three")), output_format="json")
    )
    assert body["text"] == "one page\n\ntwo\n\nthree" and body["model"] == "reader"
    assert body["usage"] == {"pages": 3, "prompt_tokens": 3, "output_tokens": 4}
    where = [(found["page"], found["file"], found["file_page"], found["dpi"]) for found in body["pages"]]
    assert where == [(1, "scan.pdf", 1, 200), (2, "scan.pdf", 2, 200), (3, "b.png", 1, None)]
    (line,) = body["pages"][2]["blocks"][0]["lines"]
    # A tenth of 280 pixels from the left and from above.
    assert line["words"] == [
        {"text": "three", "bbox": [28, 28, 49, 42], "polygon": [[28, 28], [49, 28], [49, 42], [28, 42]], "score": 0.9}
    ]


def test_features_are_what_is_told(server: httpx.Client) -> None:
    body = told(asked(server, picture("one"), output_format="json", features="confidence"))
    (line,) = body["pages"][0]["blocks"][0]["lines"]
    assert line == {"text": "one", "score": 0.9}


STARTS = {
    "markdown": ("text/markdown", "one"),
    "html": ("text/html", "<!DOCTYPE html>"),
    "hocr": ("text/html", "<?xml"),
    "tsv": ("text/tab-separated-values", "level\tpage_num"),
    "text": ("text/plain", "one"),
}


@pytest.mark.parametrize("format", STARTS)
def test_formats_of_text_are_json_unless_the_file_itself_is_asked_for(server: httpx.Client, format: Any) -> None:
    type, start = STARTS[format]
    body = told(asked(server, picture("one"), output_format=format))
    assert body.startswith(start) and "one" in body
    plain = asked(server, picture("one"), output_format=format, headers={"Accept": type})
    assert plain.headers["content-type"].startswith(type) and plain.text == body


def test_a_pdf_is_the_scan_with_its_text(server: httpx.Client) -> None:
    answer = asked(server, document("one page", "two"), output_format="pdf", dpi="144")
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/pdf"
    assert int(answer.headers["content-length"]) == len(answer.content)
    pdf = pypdfium2.PdfDocument(answer.content)
    assert [found.get_textpage().get_text_range().split() for found in pdf] == [["one", "page"], ["two"]]
    assert text_of(pdf[0].render().to_pil()) == "one page"
    assert pdf[0].get_size() == pytest.approx((280, 280), abs=0.6)
    text = pdf[0].get_textpage()
    left, bottom, right, top = text.get_charbox(0, loose=True)
    assert (left, 280 - top) == pytest.approx((28, 28), abs=1)


def test_several_files_become_one_document(server: httpx.Client) -> None:
    answer = asked(server, picture("one"), document("two", "three"), picture("four", "JPEG"), output_format="pdf")
    pdf = pypdfium2.PdfDocument(answer.content)
    assert [text_of(found.render().to_pil()) for found in pdf] == ["one", "two", "three", "four"]


def test_a_model_that_cannot_read_is_refused_by_what_it_can(server: httpx.Client, letters: str) -> None:
    assert "cannot ocr" in assert_refused(asked(server, picture("hello"), model=letters), 400, "model")
    assert_refused(asked(server, picture("hello"), model="nobody"), 404, "model")
    assert "4 running models can ocr" in assert_refused(server.post(OCR, files={"image": picture("x")}), 400, "model")


# ---------------------------------------------------------------------------------------------------- many pages


def test_pages_come_in_order_under_random_delays(server: httpx.Client) -> None:
    chance = random.Random(5)
    texts = [f"page {number} sleep:{chance.choice([0, 0.05, 0.2])}" for number in range(20)]
    assert told(asked(server, document(*texts), model="two-readers")) == "\n\n".join(texts)


def test_pages_are_read_by_all_workers_at_once(server: httpx.Client) -> None:
    """Ten pages of 0.2 s take two workers one second and a single worker two."""
    data = document(*(f"page {number}" for number in range(10)))
    told(asked(server, data, model="two-readers"))
    began = time.monotonic()
    told(asked(server, data, model="two-readers"))
    assert 1.0 <= time.monotonic() - began < 1.9


def test_a_bad_page_is_told_on_that_page_and_the_others_come_out(server: httpx.Client) -> None:
    answer = asked(server, ("a.pdf", document("one", "refuse", "fail", "four")), output_format="json")
    pages = told(answer)["pages"]
    assert [found["text"] for found in pages] == ["one", "", "", "four"]
    errors = [found.get("error") for found in pages]
    assert errors == [None, "The page was told to be refused.", "ValueError: told to fail", None]
    plain = asked(server, ("a.pdf", document("one", "refuse", "fail", "four")))
    assert told(plain) == "one\n\nfour" and plain.headers["x-unread-pages"] == "2,3"


def test_a_page_that_cannot_be_drawn_is_told_on_that_page(server: httpx.Client) -> None:
    pages = told(asked(server, ("a.pdf", pdf_with_a_bad_page()), output_format="json"))["pages"]
    assert [found.get("error") for found in pages] == [None, "Page 2 of a.pdf is broken and cannot be drawn.", None]
    pdf = asked(server, ("a.pdf", pdf_with_a_bad_page()), output_format="pdf")
    assert len(pypdfium2.PdfDocument(pdf.content)) == 2


def test_when_no_page_can_be_read_the_answer_is_the_error(server: httpx.Client) -> None:
    for fields in ({}, {"output_format": "pdf"}):
        assert "told to be refused" in assert_refused(asked(server, document("refuse", "refuse"), **fields), 400)
    assert_refused(asked(server, picture("fail")), 500)
    assert_refused(asked(server, picture("fail"), stream="true"), 500)


def test_a_wish_that_the_model_cannot_meet_is_the_error_of_the_request(server: httpx.Client) -> None:
    said = assert_refused(asked(server, document("one", "two"), task="table"), 400, "task")
    assert said == "This model does ocr, not table."


@pytest.mark.parametrize("items", [["a text"], [], [{"image": "x"}], [None, None]])
def test_what_is_no_page_is_refused_by_the_route_for_any_model(server: httpx.Client, items: list[Any]) -> None:
    answer = server.post("/v1/infer", json={"model": "reader", "items": items})
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"] == "A call reads one page, given as the bytes of a picture."


def test_params_that_are_none_are_refused_by_the_route_for_any_model(server: httpx.Client) -> None:
    answer = server.post("/v1/infer", json={"model": "reader", "items": ["x"], "params": {"task": 3}})
    assert answer.status_code == 422, answer.text


# ------------------------------------------------------------------------------------------------------ streams


def test_a_stream_tells_each_page_in_order(server: httpx.Client) -> None:
    data = document("one sleep:0.3", "two", "refuse", "four")
    found = streamed(server, data, output_format="markdown")
    assert [event["type"] for event in found] == ["ocr.page"] * 4 + ["ocr.completed"]
    assert [event["page"]["page"] for event in found[:4]] == [1, 2, 3, 4]
    assert [event["content"] for event in found[:4]] == ["one sleep:0.3", "two", "", "four"]
    assert [(event["done"], event["pages"]) for event in found[:4]] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert found[2]["page"]["error"] == "The page was told to be refused."
    usage = {"pages": 4, "prompt_tokens": 3, "output_tokens": 4}
    assert found[4] == {"type": "ocr.completed", "model": "reader", "pages": 4, "unread": [3], "usage": usage}


def test_pages_are_there_before_all_are_read(server: httpx.Client) -> None:
    fields = {"model": "slow-reader", "stream": "true"}
    files = {"image": document("one", "two", "three", "four")}
    with server.stream("POST", OCR, files=files, data=fields) as answer:
        times = [time.monotonic() for event in events(answer) if event["type"] == "ocr.page"]
    assert len(times) == 4 and times[3] - times[0] > 0.9 * PAGE_S


def test_what_is_written_of_a_page_comes_as_it_is_written(server: httpx.Client) -> None:
    found = streamed(server, picture("these are the words"), model="writer")
    deltas = [event["delta"] for event in found if event["type"] == "ocr.delta"]
    assert "".join(deltas) and "these are the words ".startswith("".join(deltas))
    assert found[-2]["type"] == "ocr.page" and found[-2]["page"]["text"] == "these are the words"


def test_what_is_written_of_each_page_comes_before_it_and_after_the_one_before(server: httpx.Client) -> None:
    texts = ["these are the words ", "of the second page ", "and of the third "]
    found = streamed(server, document(*(text.strip() for text in texts)), model="writer")
    ends = [place for place, event in enumerate(found) if event["type"] == "ocr.page"]
    starts = [0, *(end + 1 for end in ends)]
    for number, (start, end, text) in enumerate(zip(starts, ends, texts, strict=False), 1):
        deltas = [event for event in found[start:end] if event["type"] == "ocr.delta"]
        assert all(delta["page"] == number for delta in deltas)
        assert text.startswith("".join(delta["delta"] for delta in deltas))
    assert len(ends) == 3 and any(event["type"] == "ocr.delta" for event in found[: ends[0]])


def test_what_is_wrong_is_an_error_before_a_stream_begins(server: httpx.Client) -> None:
    assert_refused(asked(server, b"", stream="true"), 422, "image")
    assert_refused(asked(server, picture("one"), stream="true", task="table"), 400, "task")
    assert_refused(asked(server, picture("one"), stream="true", background="true"), 400, "stream")


# ------------------------------------------------------------------------------ whoever leaves, aborts, or comes back


LONG = document(*(f"page {number}" for number in range(12)))


def assert_stops(journal: Journal, begun: int) -> None:
    """No page is begun after the one that is being read."""
    time.sleep(PAGE_S)
    now = journal.count("begin")
    assert now - begun <= 2
    time.sleep(3 * PAGE_S)
    assert journal.count("begin") == now and journal.count("end") < now


def test_when_the_client_leaves_no_further_page_is_read(server: httpx.Client, journal: Journal) -> None:
    before = journal.count("begin")
    with server.stream("POST", OCR, files={"image": LONG}, data={"model": "slow-reader", "stream": "true"}) as answer:
        next(events(answer))
        begun = journal.count("begin")
    assert begun > before
    assert_stops(journal, begun)

    async def leave() -> None:
        async with httpx.AsyncClient(base_url=server.base_url) as http:
            await http.post(OCR, files={"image": LONG}, data={"model": "slow-reader"}, timeout=1.2)

    with pytest.raises(httpx.ReadTimeout):
        asyncio.run(leave())
    assert_stops(journal, journal.count("begin"))


def test_an_abort_ends_all_pages_and_tells_the_caller(
    server: httpx.Client, live: LiveCluster, journal: Journal
) -> None:
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(asked, server, LONG, model="slow-reader", request_id="abort-me")
        before = journal.count("end")
        until(lambda: journal.count("end") > before, within=10)
        with live.client() as client:
            assert client.get_progress("abort-me")["stage"] == "reading"
            client.abort_request("slow-reader", "abort-me", 1)
        assert "cancelled" in assert_refused(answer.result(), 409)
    assert_stops(journal, journal.count("begin"))


def test_progress_is_that_of_the_whole_document(server: httpx.Client) -> None:
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(asked, server, document("1", "2", "3", "4"), model="slow-reader", request_id="how-far")
        until(lambda: server.get("/v1/requests/how-far/progress").status_code == 200, within=5)
        assert_refused(asked(server, picture("x"), model="slow-reader", request_id="how-far"), 409, "request_id")
        seen = set()
        while not answer.done():
            found = server.get("/v1/requests/how-far/progress").json()
            seen.add((found["step"], found["steps"], found["progress"]))
            time.sleep(0.05)
        assert told(answer.result()) == "1\n\n2\n\n3\n\n4"
    assert seen > {(1, 4, 0.25), (2, 4, 0.5), (3, 4, 0.75)}


def finished(server: httpx.Client, id: str) -> dict[str, Any]:
    def ended() -> Any:
        job = server.get(f"/v1/images/jobs/{id}").json()
        return job if job["status"] not in ("queued", "in_progress") else None

    job: dict[str, Any] = until(ended, within=20)
    return job


def test_a_job_outlives_its_caller(server: httpx.Client) -> None:
    answer = asked(server, document("one", "two", "three", "four"), model="slow-reader", background="true")
    assert answer.status_code == 202 and answer.json()["object"] == "ocr.job"
    id = answer.json()["id"]
    seen = until(lambda: 0 < server.get(f"/v1/images/jobs/{id}").json()["progress"] < 1, within=10)
    assert seen
    assert finished(server, id)["status"] == "completed"
    assert server.get(f"/v1/images/jobs/{id}/result").json() == "one\n\ntwo\n\nthree\n\nfour"


def test_a_job_can_be_stopped_and_can_fail(server: httpx.Client, journal: Journal) -> None:
    id = asked(server, LONG, model="slow-reader", background="true").json()["id"]
    before = journal.count("end")
    until(lambda: journal.count("end") > before, within=10)
    assert server.delete(f"/v1/images/jobs/{id}").json()["status"] == "cancelled"
    assert_stops(journal, journal.count("begin"))
    id = asked(server, document("refuse", "refuse"), background="true").json()["id"]
    assert finished(server, id)["error"]["message"] == "The page was told to be refused."


# ------------------------------------------------------------------------------------------------------- bad input


def test_files_that_cannot_be_read_are_refused_by_name(server: httpx.Client) -> None:
    bad = {
        "zero.png": (b"", 422, "zero.png is empty."),
        "text.png": (b"just text", 422, "text.png is neither a picture"),
        "broken.pdf": (b"%PDF-1.7 nothing", 422, "broken.pdf is a broken PDF"),
        "secret.pdf": (encrypted_pdf(), 422, "secret.pdf is encrypted"),
        "bomb.png": (png_claiming(100_000, 100_000), 413, "bomb.png has 100000 x 100000 pixels; 100 million"),
        "big.pdf": (pdf_of(10_000), 413, "big.pdf has 10000 pages, of which 10000 are to be read; 1000 are allowed"),
        "cut.png": (picture("hello", size=(900, 900))[:-200], 400, "cut.png is not a readable picture"),
    }
    for name, (data, status, said) in bad.items():
        assert assert_refused(asked(server, (name, data)), status).startswith(said), name


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"pages": "3-4"}, 422, "pages"),
        ({"pages": "x"}, 422, "pages"),
        ({"languages": "klingon"}, 422, "languages"),
        ({"dpi": "71"}, 422, "dpi"),
        ({"dpi": "601"}, 422, "dpi"),
        ({"output_format": "docx"}, 422, "output_format"),
        ({"task": "sing"}, 422, "task"),
        ({"features": "boxes,smells"}, 422, "features"),
        ({"max_new_tokens": "0"}, 422, "max_new_tokens"),
        ({"kwargs": "{"}, 422, "kwargs"),
        ({"kwargs": "[1]"}, 422, "kwargs"),
        ({"output_fromat": "json"}, 422, "output_fromat"),
        ({"kwargs": '{"save_folder": "/etc"}'}, 422, "save_folder"),
        ({"request_id": "a b"}, 422, "request_id"),
    ],
)
def test_wishes_that_make_no_sense_are_refused_by_their_name(
    server: httpx.Client, fields: dict[str, Any], status: int, param: str
) -> None:
    assert_refused(asked(server, ("a.pdf", document("one", "two")), **fields), status, param)


def test_a_page_out_of_range_is_told_with_what_there_is(server: httpx.Client) -> None:
    answer = asked(server, ("a.pdf", document("one", "two")), pages="2,9")
    assert assert_refused(answer, 422, "pages") == "pages asks for 9, and a.pdf has 2 pages."


def test_a_request_without_a_file_says_what_is_missing(server: httpx.Client) -> None:
    for answer in (server.post(OCR, data={"model": "reader"}), server.post(OCR, json={"model": "reader", "image": []})):
        assert_refused(answer, 422, "image")
    assert_refused(server.post(OCR, json={"model": "reader", "image": 5}), 422, "image")
    assert_refused(server.post(OCR, json={"model": "reader", "image": "http://10.0.0.1/a.png"}), 400, "image")
    assert_refused(server.post(OCR, files={"prompt": b"x", "image": picture("one")}), 422, "prompt")


def test_bad_requests_leave_nothing_behind(server: httpx.Client, journal: Journal) -> None:
    begun = journal.count("begin")
    assert_refused(asked(server, document("one"), model="slow-reader", pages="2"), 422)
    assert_refused(asked(server, b"", model="slow-reader"), 422)
    assert journal.count("begin") == begun
