"""Chat completions of models that read: the pictures of the last message are read, its text is the prompt."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Sequence

import orjson
from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from cluster import errors
from cluster.value import JsonObject
from deployments.ingress.bodies import Json, checked
from deployments.ingress.dialects import ChatAnswer, Services
from deployments.ingress.errors import as_cluster_error, error_body
from deployments.ingress.events import Events
from deployments.ocr import formats
from deployments.ocr.http.body import OcrFields, nameless
from deployments.ocr.http.documents import DocumentFile
from deployments.ocr.http.ocr import Ocr
from deployments.ocr.http.pages import DocumentRun, OcrOrder, PageResult, every, refuse_unread
from deployments.ocr.page import RecognisedPage
from deployments.ocr.requests import Reading

END = b"data: [DONE]\n\n"


class PageChat(BaseModel):
    """Other fields of a chat mean nothing for a page, and are ignored."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str | None = None
    messages: list[JsonObject] = Field(min_length=1)
    stream: bool = False
    stream_options: JsonObject | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None

    def reading(self, prompt: str) -> Reading:
        fields = {
            "prompt": prompt or None,
            "prompt_is_optional": True if prompt else None,
            "max_new_tokens": self.max_completion_tokens or self.max_tokens,
            "temperature": self.temperature,
        }
        reading: Reading = checked(Reading, {name: value for name, value in fields.items() if value is not None})
        return reading


class Chat:
    """One answer, whole or in pieces."""

    def __init__(self, order: OcrOrder, run: DocumentRun, request_id: str, tells_usage: bool) -> None:
        self._order = order
        self._run = run
        self._tells_usage = tells_usage
        self._common = {"id": f"chatcmpl-{request_id}", "created": int(time.time()), "model": order.model.uid}

    async def whole(self) -> Json:
        with contextlib.closing(self._order.document):
            pages = [read.page for read in await every(self._run)]
        message = {"role": "assistant", "content": formats.markdown(pages)}
        choice = {"index": 0, "message": message, "finish_reason": _why_it_ended(pages), "logprobs": None}
        return Json({**self._common, "object": "chat.completion", "choices": [choice], "usage": _usage(pages)})

    async def events(self) -> AsyncGenerator[bytes]:
        """A piece for each page."""
        results: list[PageResult] = []
        try:
            with contextlib.closing(self._order.document):
                async with contextlib.aclosing(self._run.pages()) as pages:
                    async for result in pages:
                        joint = (
                            "\n\n" if any(earlier.page.markdown for earlier in results) and result.page.markdown else ""
                        )
                        results.append(result._replace(picture=None))
                        if result.page.markdown:
                            yield self._chunk({"role": "assistant", "content": joint + result.page.markdown})
            refuse_unread(results)
            ended = [result.page for result in results]
            yield self._chunk({}, _why_it_ended(ended))
            if self._tells_usage:
                yield _event({**self._common, "object": "chat.completion.chunk", "choices": [], "usage": _usage(ended)})
            yield END
        # Once the answer has begun its status is sent, so the error becomes an event.
        except Exception as error:
            if not any(result.page.markdown for result in results):
                raise
            yield _event(error_body(as_cluster_error(error)))

    def _chunk(self, delta: dict[str, str], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return _event({**self._common, "object": "chat.completion.chunk", "choices": [choice]})


def answerer(services: Services) -> ChatAnswer:
    ocr = services.shared(Ocr)

    async def answer(request: Request, fields: JsonObject) -> Response:
        body: PageChat = checked(PageChat, fields)
        prompt, files = await _last_of(ocr, body.messages)
        order = await ocr.open(request, OcrFields(model=body.model), body.reading(prompt), files)
        chat = Chat(
            order,
            ocr.run(request, order),
            request.state.request_id,
            bool((body.stream_options or {}).get("include_usage")),
        )
        return await Events.of(chat.events()) if body.stream else await chat.whole()

    return answer


async def _last_of(ocr: Ocr, messages: Sequence[JsonObject]) -> tuple[str, list[DocumentFile]]:
    """The words and the pictures of the last message of the user."""
    content = next((message.get("content") for message in reversed(messages) if message.get("role") == "user"), None)
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    words: list[str] = []
    files: list[DocumentFile] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            words.append(str(part.get("text") or ""))
        elif kind == "image_url":
            title = nameless("image", len(files))
            files.append(DocumentFile(title, await ocr.body.decode(part, "image", len(files))))
        else:
            raise errors.InvalidBody(f"A message takes text and image_url, not {kind!r:.50}.", "messages")
    if not files:
        raise errors.InvalidBody("This model reads pictures: the last message must have an image_url.", "messages")
    return "\n".join(filter(None, words)), files


def _why_it_ended(pages: Sequence[RecognisedPage]) -> str:
    return "length" if any(page.truncated or page.repetition for page in pages) else "stop"


def _usage(pages: Sequence[RecognisedPage]) -> dict[str, int]:
    """Of an engine without tokens, a page counts as one of the question and a word as one of the answer."""
    used = formats.usage(pages)
    prompt = used["prompt_tokens"] or used["pages"]
    completion = used["output_tokens"] or len(formats.text(pages).split())
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _event(content: JsonObject) -> bytes:
    return b"data: %s\n\n" % orjson.dumps(content)
