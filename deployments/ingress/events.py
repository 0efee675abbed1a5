"""Answers that come piece by piece."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from fastapi import Response
from starlette.types import Receive, Scope, Send


class Events(Response):
    """Server-sent events. The first is there before the answer begins, so that what fails at once is an error like any
    other; and when the client leaves, the source is closed, not left to the garbage collector."""

    media_type = "text/event-stream"

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._first = first
        self._rest = rest

    @classmethod
    async def of(cls, source: AsyncGenerator[bytes]) -> Events:
        return cls(await anext(source), source)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(self._rest):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            async for event in self._rest:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Lines(Events):
    """The same, each piece a line of JSON."""

    media_type = "application/x-ndjson"
