"""Asks the image routes for pictures."""

from __future__ import annotations

from typing import Any

import httpx

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
VARIATIONS, INPAINTING = "/v1/images/variations", "/v1/images/inpainting"
STEP_S = 0.4


def drawn(server: httpx.Client, path: str = GENERATIONS, **kwargs: Any) -> dict[str, Any]:
    answer = server.post(path, **kwargs)
    assert answer.status_code == 200, answer.text[:500]
    body: dict[str, Any] = answer.json()
    return body


def assert_refused(answer: httpx.Response, status: int, param: str | None = None) -> str:
    assert answer.status_code == status, answer.text[:500]
    told = answer.json()
    assert told["detail"] == told["error"]["message"]
    assert param is None or told["error"]["param"] == param, told
    return str(told["detail"])
