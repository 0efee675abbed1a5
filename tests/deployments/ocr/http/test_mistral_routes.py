"""Mistral's routes, with a model whose pages can be worked out by hand."""

from __future__ import annotations

import httpx
import pytest

from tests.deployments.ocr.http.asking import MISTRAL, assert_refused, told
from tests.painted import as_uri
from tests.read_pages import document, picture


def test_the_route_of_mistral_counts_from_nought(server: httpx.Client) -> None:
    asking = {"model": "reader", "document": {"type": "document_url", "document_url": as_uri(document("a", "b", "c"))}}
    body = told(server.post(MISTRAL, json={**asking, "pages": [0, 2], "include_image_base64": True}))
    assert [(found["index"], found["markdown"], found["images"]) for found in body["pages"]] == [
        (0, "a", []),
        (2, "c", []),
    ]
    assert body["pages"][0]["dimensions"]["dpi"] == 200
    assert body["model"] == "reader" and body["usage_info"]["pages_processed"] == 2
    assert [found["index"] for found in told(server.post(MISTRAL, json={**asking, "pages": "1-2"}))["pages"]] == [1, 2]
    picked = {"model": "reader", "document": {"type": "image_url", "image_url": {"url": as_uri(picture("x"))}}}
    assert told(server.post(MISTRAL, json=picked))["pages"][0]["markdown"] == "x"


def test_the_route_of_mistral_refuses_what_it_cannot_as_its_clients_read_it(server: httpx.Client) -> None:
    url = {"model": "reader", "document": {"type": "document_url", "document_url": as_uri(document("a"))}}
    for wrong, param in (({"document": {"type": "book"}}, "document"), ({"pages": [1]}, "pages")):
        body = server.post(MISTRAL, json={**url, **wrong})
        assert body.status_code == 422
        (problem,) = body.json()["detail"]
        assert problem["loc"] == ["body", param] and problem["msg"] == body.json()["message"]
    missing = server.post(MISTRAL, json={**url, "document": {"type": "file", "file_id": "1"}})
    assert missing.status_code == 404 and "no file '1'" in missing.json()["message"]


def test_the_route_of_mistral_ignores_what_only_other_models_can(server: httpx.Client) -> None:
    url = {"type": "document_url", "document_url": as_uri(document("a b"))}
    asking = {"model": "reader", "document": url, "table_format": "html", "include_blocks": True, "colour": 1}
    (read,) = told(server.post(MISTRAL, json={**asking, "confidence_scores_granularity": "word"}))["pages"]
    (block,) = read["blocks"]
    assert (block["type"], block["content"]) == ("text", "a b") and block["bottom_right_x"] > block["top_left_x"]
    assert read["confidence_scores"]["average_page_confidence_score"] == pytest.approx(0.9)
    words = [(word["text"], word["start_index"]) for word in read["confidence_scores"]["word_confidence_scores"]]
    assert words == [("a", 0), ("b", 2)]


def test_an_uploaded_file_is_read_until_it_is_deleted(server: httpx.Client) -> None:
    row = told(server.post("/v1/files", files={"file": ("b.pdf", document("one"))}, data={"purpose": "ocr"}))
    assert (row["filename"], row["object"], row["purpose"]) == ("b.pdf", "file", "ocr")
    asking = {"model": "reader", "document": {"type": "file", "file_id": row["id"]}}
    assert told(server.post(MISTRAL, json=asking))["pages"][0]["markdown"] == "one"
    assert row["id"] in [listed["id"] for listed in told(server.get("/v1/files"))["data"]]
    assert server.get(f"/v1/files/{row['id']}/content").content.startswith(b"%PDF")
    url = told(server.get(f"/v1/files/{row['id']}/url"))["url"]
    assert httpx.get(url).headers["content-type"] == "application/pdf"
    signed = {"model": "reader", "document": {"type": "document_url", "document_url": url}}
    assert told(server.post(MISTRAL, json=signed))["pages"][0]["markdown"] == "one"
    assert told(server.delete(f"/v1/files/{row['id']}"))["deleted"] is True
    assert server.get(f"/v1/files/{row['id']}").status_code == server.post(MISTRAL, json=asking).status_code == 404


def test_an_upload_without_a_file_says_what_is_missing(server: httpx.Client) -> None:
    assert_refused(server.post("/v1/files", json={}), 422, "file")
    assert_refused(server.post("/v1/files", files={"other": b"x"}), 422, "file")
    assert_refused(server.post("/v1/files", files={"file": b"x"}, data={"purpose": "x" * 101}), 422, "purpose")
    assert server.get("/v1/files/..%2F..%2Fkeys").status_code == 404
