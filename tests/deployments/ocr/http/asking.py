"""Asks the routes that read text, and looks at what they answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx

OCR, MISTRAL = "/v1/images/ocr", "/v1/ocr"
#: What the slow reader takes for a page.
PAGE_S = 0.5


def asked(
    server: httpx.Client, *files: bytes | tuple[str, bytes], model: str = "reader", **fields: Any
) -> httpx.Response:
    named = [("image", file if isinstance(file, tuple) else ("image", file)) for file in files]
    headers = fields.pop("headers", None)
    return server.post(OCR, files=named, data={"model": model, **fields}, headers=headers)


def told(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text[:500]
    return answer.json()


def assert_refused(answer: httpx.Response, status: int, param: str | None = None) -> str:
    assert answer.status_code == status, answer.text[:500]
    body = answer.json()
    assert body["detail"] == body["error"]["message"]
    assert param is None or body["error"]["param"] == param, body
    return str(body["detail"])


def events(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in answer.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def streamed(server: httpx.Client, *files: bytes, model: str = "reader", **fields: Any) -> list[dict[str, Any]]:
    named = [("image", ("image", file)) for file in files]
    with server.stream("POST", OCR, files=named, data={"model": model, "stream": "true", **fields}) as answer:
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
        return list(events(answer))
