"""A transport that answers from a list."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

from cluster import AsyncClient, Client, errors
from tests.cluster.client.fake_server import to_response

URL = "http://127.0.0.1:9997"


class Wire:
    """A transport that answers from a list and records the requests."""

    def __init__(self, *answers: Any, log_tail: tuple[str, ...] = ()) -> None:
        self.answers = list(answers)
        self.log_tail = log_tail
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.keys: list[str | None] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        self.asked.append(
            (request.method, request.url.raw_path.decode().partition("?")[0], dict(request.url.params), body)
        )
        self.keys.append(request.headers.get("authorization"))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception) and not isinstance(answer, errors.ClusterError):
            raise answer
        if isinstance(answer, httpx.Response):
            return answer
        status, headers, said = to_response(answer, self.log_tail)
        return httpx.Response(status, headers=headers, json=said)


def client_of(wire: Wire, **options: Any) -> Client:
    return Client(URL, transport=httpx.MockTransport(wire), **options)


async def result_of_async(make: Callable[[Any], Any], wire: Wire) -> Any:
    async with AsyncClient(URL, transport=httpx.MockTransport(wire)) as client:
        return await make(client)
