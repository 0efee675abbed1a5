"""The fake server for pictures: it also reads forms and streams events."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator, Callable
from io import BytesIO
from typing import Any

from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from cluster.errors import ClusterError
from tests.cluster.client.fake_server import FakeServer, Seen, error_body, to_response


def picture(colour: str = "red", width: int = 8, height: int = 6) -> bytes:
    file = BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def encoded(data: bytes, **more: Any) -> dict[str, Any]:
    return {"b64_json": base64.b64encode(data).decode(), "url": None, "revised_prompt": None, **more}


def answer_of(*files: bytes, seed: int = 7) -> dict[str, Any]:
    """The answer of a request that is not streamed."""
    rows = [encoded(file, seed=seed + i, receipt={"seed": seed + i}) for i, file in enumerate(files)]
    return {"created": 1, "output_format": "png", "size": "8x6", "data": rows}


def partial(data: bytes, index: int = 0, kind: str = "image_generation") -> dict[str, Any]:
    return {"type": f"{kind}.partial_image", "partial_image_index": index, **encoded(data)}


def completed(data: bytes, seed: int = 7, kind: str = "image_generation") -> dict[str, Any]:
    return {"type": f"{kind}.completed", **encoded(data, seed=seed, receipt={"seed": seed})}


class Stream:
    """A stream of events. A dict is an event, a text a comment, an error ends the stream, and a function makes it wait
    until the function returns true."""

    def __init__(self, *events: dict[str, Any] | str | ClusterError | Callable[[], bool]) -> None:
        self.events = events
        #: Set when the client left before the end.
        self.left = threading.Event()

    async def lines(self) -> AsyncIterator[str]:
        try:
            for event in self.events:
                if callable(event):
                    while not event():
                        await asyncio.sleep(0.01)
                elif isinstance(event, str):
                    yield f": {event}\n\n"
                elif isinstance(event, ClusterError):
                    yield f"event: error\ndata: {json.dumps(error_body(event))}\n\n"
                else:
                    yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
        except asyncio.CancelledError:
            self.left.set()
            raise


class ImageServer(FakeServer):
    async def answer(self, request: Request) -> Response:
        answer = self.answers.get(f"{request.method} {request.url.path}", [None])[0]
        is_form = request.headers.get("content-type", "").startswith("multipart/form-data")
        if not isinstance(answer, Stream) and not is_form:
            return await super().answer(request)
        body = await _form(request) if is_form else await request.json()
        self.seen.append(Seen(request.method, request.url.path, dict(request.query_params), body, None))
        if isinstance(answer, Stream):
            return StreamingResponse(answer.lines(), media_type="text/event-stream")
        status, headers, said = to_response(answer)
        return JSONResponse(said, status, headers)


async def _form(request: Request) -> list[tuple[str, str | bytes]]:
    async with request.form() as form:
        return [(name, value if isinstance(value, str) else await value.read()) for name, value in form.multi_items()]
